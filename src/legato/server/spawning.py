"""An engine's process before anybody talks to it.

``legato serve`` starts one before it imports what it needs to do so: both processes import at the same time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import TracebackType
from typing import NamedTuple, Self

from legato.errors import EngineDeadError

LOADER = "legato.models:load"
"""What the process loads the model with (module:function)."""


class Spawned(NamedTuple):
    """It waits for its settings, and ends when the context does if nobody has given it any."""

    process: subprocess.Popen[bytes]
    socket: socket.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()  # nothing, if it has ended
        self.process.wait()
        self.socket.close()


def spawn(loader: str = LOADER) -> Spawned:
    """Raises EngineDeadError if the system has no process or socket left."""
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), loader, str(os.getpid())]
            command = [sys.executable, "-m", "legato.engine_process", *arguments]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
            )
    except OSError as error:
        raise EngineDeadError(f"the engine process cannot be started: {error}") from error
    return Spawned(process, ours)
