"""Trackers of experiments: one file, one client; each says the same names of all methods."""
