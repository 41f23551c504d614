"""A ``legato serve`` of the bench's own, on a free port."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from legato.errors import EngineError


@contextmanager
def own_server(model: str, *flags: str) -> Iterator[str]:
    """Its URL, once it is ready; it ends with the block. Raises EngineError if it does not start."""
    quietly = ("--port", "0", "--log-level", "warning")  # else each request has its lines
    command = [sys.executable, "-m", "legato.cli", "serve", model, *quietly, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield _url(process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"ready at (\S+)", line):
            return found[1]
    raise EngineError(f"legato serve ended with {process.wait()}")
