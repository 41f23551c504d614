"""Memory that was needed for a moment goes back to the system: C's allocator would keep it."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # of mallopt(3)
LARGE = 1 << 18  # bytes


def keep_no_large_blocks() -> None:
    """From now on a block of ``LARGE`` bytes or more goes back when it is freed. By itself glibc stops that
    with the first one (up to 32 MB), and from then on large blocks leave holes among small ones that stay.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(ctypes.c_int(M_MMAP_THRESHOLD), ctypes.c_int(LARGE))


def give_back() -> None:
    """What is free, now. A few milliseconds. Nothing happens where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
