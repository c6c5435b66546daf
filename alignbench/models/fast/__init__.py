"""Layers that are there for speed alone."""
