"""How a check says what was expected."""

from __future__ import annotations


def expect(holds: object, message: str) -> None:
    """AssertionError with the message, unless it holds; also where Python runs without `assert`."""
    if not holds:
        raise AssertionError(message)
