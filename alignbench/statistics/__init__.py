"""Intervals, tests and power over prompts and seeds. No torch."""

from alignbench.statistics.summary import Summary, from_summary

__all__ = ["Summary", "from_summary"]
