"""An engine's process before anybody talks to it.

``legato serve`` starts one before it imports what it needs to do so: both processes import at the same time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import NamedTuple

from legato.errors import EngineDeadError

LOADER = "legato.models:load"
"""What the process loads the model with (module:function)."""


class Spawned(NamedTuple):
    """It waits for its settings."""

    process: subprocess.Popen[bytes]
    socket: socket.socket

    def close(self) -> None:
        """Ends the process, unless it has ended."""
        self.process.kill()
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
