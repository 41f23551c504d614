"""The HTTP server, and how it ends: SIGTERM drains it, a second signal, or Ctrl-C, stops it. What is open when
its time is over is told so."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from types import FrameType

import uvicorn

from legato.server.errors import NotReadyError
from legato.server.service import Service

LOG = logging.getLogger(__name__)
GRACE = 3  # seconds that open requests get when the server is told to stop
TELLING = 2  # seconds to send errors in


class DrainingServer(uvicorn.Server):
    """``timeout``: seconds that open requests get to finish after SIGTERM; new ones are refused
    meanwhile, with a 503, so that whoever balances load hears of it."""

    def __init__(self, config: uvicorn.Config, service: Service, timeout: float) -> None:
        super().__init__(config)
        self._service = service
        self._timeout = timeout
        self._deadline = 0.0
        self._grace = GRACE

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM or self._service.is_draining:
            super().handle_exit(sig, frame)
        else:
            self._deadline = time.monotonic() + self._timeout
        self._service.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Returns whether to end."""
        if self._service.is_draining and not self.should_exit:
            is_late = time.monotonic() > self._deadline
            if is_late:
                LOG.warning("%d requests are cut off by --drain-timeout", self._open)
                self._grace = 0
            self.should_exit = is_late or not self._open
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers end with an error in time: what is open after ``timeout_graceful_shutdown``, uvicorn
        breaks off in the midst."""
        error = NotReadyError("the server is being shut down: ask another one")
        self.config.timeout_graceful_shutdown = self._grace + TELLING
        asyncio.get_running_loop().call_later(self._grace, self._service.engine.close, error)
        await super().shutdown(sockets)

    @property
    def _open(self) -> int:
        """Connections whose response is not complete, and answers that nobody is listening to."""
        return max(len(self.server_state.tasks), self._service.num_open)
