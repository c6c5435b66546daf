"""Evaluations with prompts and metrics of their own."""
