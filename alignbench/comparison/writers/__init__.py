"""A comparison as text: one file, one format."""
