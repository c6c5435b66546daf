"""Run directories and what is read from them: frames, tables, verdicts. No torch."""

FORMATS = ("table", "markdown", "json", "csv", "latex", "html-fragment")
"""What `compare` can write."""
