"""Freed memory that stays with the process."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**25


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within the block, glibc keeps freed memory for what is allocated next; after it, it gives it back.

    By default every large tensor is a mapping of its own, and each of its pages faults anew in every iteration of a
    training loop. Elsewhere than on glibc nothing is done, nor where the environment has settings of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or any(name.startswith("MALLOC_") for name in os.environ):
        yield
        return
    # Older releases take no threshold above the largest that their own adjustment comes to.
    if not mallopt(_MMAP_THRESHOLD, 2**30):
        mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        ctypes.CDLL(None).malloc_trim(0)
