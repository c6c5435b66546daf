"""Runs compared: estimates, verdicts and flags, and the tables that show them."""

FORMATS = ("table", "details", "markdown", "json", "csv", "latex", "html-fragment")
"""What alignbench itself writes, the most used first; installed packages may add to it."""
