"""Seconds as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Returns `m:ss`, or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
