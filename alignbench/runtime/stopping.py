"""Ending at the next checkpoint: what a worker is asked for, so that no step is lost."""

from __future__ import annotations

_is_asked = False


def ask() -> None:
    """Asks this process to end at its next checkpoint."""
    global _is_asked
    _is_asked = True


def is_asked() -> bool:
    """True once it was asked."""
    return _is_asked


def at_checkpoint() -> None:
    """To be called when a checkpoint is written; KeyboardInterrupt where this process was asked to end."""
    if _is_asked:
        raise KeyboardInterrupt
