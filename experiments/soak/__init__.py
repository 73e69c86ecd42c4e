"""Kills and resumes `flamejax reconstruct` over many photos, some of them broken, and counts what went wrong."""
