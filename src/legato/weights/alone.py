"""One process at a time downloads into a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two processes must not append to the same file: the second waits, and finds it complete."""
    with open(beside(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def beside(folder: Path, what: str) -> Path:
    """A name that no model has."""
    return folder.with_name(f".{folder.name}.{what}")
