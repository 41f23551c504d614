"""One exception tree. ``server/errors.py`` is the only place that maps it to HTTP.

LegatoError
├── ConfigError            a setting cannot be used              (names the field)
├── ModelError             a model file is missing or unusable   (names file and key)
│   └── UnsupportedModelError   it is well-formed, but not served by this version
├── RequestError           the client asked for something wrong  (names the field)
│   └── ContextLengthError      the prompt does not fit
└── EngineError            the engine failed while serving
    ├── DeadlineError           the request's own time is over
    └── EngineDeadError         its process is gone
        └── RepeatedDeathError      each time this request was open
"""

from __future__ import annotations

from collections.abc import Iterable


class LegatoError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(LegatoError):
    """A setting is invalid, or does not fit this machine or model."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ModelError(LegatoError):
    """A model file is missing, corrupt or inconsistent. The message names the file and the key."""


class UnsupportedModelError(ModelError):
    """A well-formed model uses an architecture, format or value that is not supported."""


class RequestError(LegatoError):
    """A request is invalid. ``field`` is the name the client used, e.g. ``messages[2].content``."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def unknown_field(name: str, known: Iterable[str], place: str = "") -> RequestError:
    """Of a field that nothing reads, with the one that may have been meant."""
    import difflib  # a start has no time for it

    close = difflib.get_close_matches(name, sorted(known), 1) if len(name) < 100 else []
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return RequestError(f"unknown field {place + name!r}{hint}", place + name)


class ContextLengthError(RequestError):
    """Prompt (plus requested output) exceeds the model's context length."""


class EngineError(LegatoError):
    """The engine could not serve a request that was valid."""


class DeadlineError(EngineError):
    """The answer was not complete when the time was over that its request allowed."""


class EngineDeadError(EngineError):
    """The engine process ended while requests were open."""


class RepeatedDeathError(EngineDeadError):
    """Engine after engine died while this request was open: it may be the reason, and is given up."""
