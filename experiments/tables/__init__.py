"""The papers' tables, one module for each, and what they share."""
