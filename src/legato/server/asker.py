"""Who asks, and how much time there is: known from a request's head and body on, wherever it is needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from legato.errors import RequestError

MAX_TIMEOUT = 86_400.0


@dataclass(frozen=True)
class Asker:
    """``account`` is held to limits: an API key if there are several, else the address. ``name`` has a
    fair share of the engine: the same, but ``user`` of the request where one key serves all."""

    account: str = ""
    user: str = ""
    arrival: float = field(default_factory=time.monotonic)
    timeout: float | None = None

    @property
    def name(self) -> str:
        return self.user or self.account

    @property
    def seconds_left(self) -> float | None:
        """Until the request's own deadline; None: it has none."""
        if self.timeout is None:
            return None
        return self.arrival + self.timeout - time.monotonic()


NOBODY = Asker()
ASKER: ContextVar[Asker] = ContextVar("asker", default=NOBODY)  # of the task that serves a request


def owner() -> str:
    """To whom what is kept now belongs: an API key where there are several, else everybody. An address is
    nobody: who lost a connection may come back from another one."""
    account = ASKER.get().account
    return account if account.startswith("key ") else ""


def note_body(body: Mapping[str, Any]) -> None:
    """What the body says of who asks. Raises RequestError for a timeout that cannot be."""
    asker = ASKER.get()
    if not asker.account.startswith("key "):
        asker = replace(asker, user=user_of(body))
    timeout = body.get("timeout")
    if isinstance(timeout, int | float) and not isinstance(timeout, bool):
        if not 0 < timeout <= MAX_TIMEOUT:
            raise RequestError(
                f"timeout must be above 0 and at most {MAX_TIMEOUT:g} seconds, got {timeout}",
                "timeout",
            )
        asker = replace(asker, timeout=float(timeout))
    ASKER.set(asker)


def user_of(body: Mapping[str, Any]) -> str:
    metadata = body.get("metadata")
    anthropics = metadata.get("user_id") if isinstance(metadata, dict) else None
    for name in (body.get("user"), body.get("safety_identifier"), anthropics):
        if isinstance(name, str) and name:
            return "user " + name[:200]
    return ""
