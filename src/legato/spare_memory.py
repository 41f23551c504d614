"""Gives back to the system what loading needed for a moment: C's allocator would keep it."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """A few milliseconds. Nothing happens where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
