"""Thin wrappers of TRL trainers, shared by methods."""
