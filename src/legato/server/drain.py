"""The HTTP server, and how it ends: SIGTERM drains it, a second signal, or Ctrl-C, stops it."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType

import uvicorn

from legato.server.service import Service

LOG = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """``timeout``: seconds that open requests get to finish after SIGTERM; new ones are refused
    meanwhile, with a 503, so that whoever balances load hears of it."""

    def __init__(self, config: uvicorn.Config, service: Service, timeout: float) -> None:
        super().__init__(config)
        self._service = service
        self._timeout = timeout
        self._deadline = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM or self._service.is_draining:
            super().handle_exit(sig, frame)
            return
        self._service.is_draining = True
        self._deadline = time.monotonic() + self._timeout

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Returns whether to end."""
        if self._service.is_draining and not self.should_exit:
            is_late = time.monotonic() > self._deadline
            if is_late:
                LOG.warning("%d requests are cut off by --drain-timeout", self._open)
            self.should_exit = is_late or not self._open
        return await super().on_tick(counter)

    @property
    def _open(self) -> int:
        """Connections whose response is not complete, and answers that nobody is listening to."""
        return max(len(self.server_state.tasks), self._service.num_open)
