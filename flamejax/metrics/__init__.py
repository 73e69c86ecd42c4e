"""Metrics: distances between heads, of sets of samples, and NoW's protocol."""
