"""Intervals and paired tests over prompts. No torch."""
