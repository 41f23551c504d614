"""Legato: every request is a continuation, and a continuation is exact.

    from legato import LLM, SamplingParams

Names are imported when first used: the engine's process imports this package too, and needs
neither the tokenizer nor HTTP.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from legato.errors import (
        ConfigError,
        ContextLengthError,
        EngineDeadError,
        EngineError,
        LegatoError,
        ModelError,
        RequestError,
        UnsupportedModelError,
    )
    from legato.llm import LLM
    from legato.request import SamplingParams
    from legato.request_output import CompletionOutput, RequestOutput

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "CompletionOutput",
    "ConfigError",
    "ContextLengthError",
    "EngineDeadError",
    "EngineError",
    "LegatoError",
    "ModelError",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "UnsupportedModelError",
    "__version__",
]

_HOMES = {
    "LLM": "legato.llm",
    "CompletionOutput": "legato.request_output",
    "RequestOutput": "legato.request_output",
    "SamplingParams": "legato.request",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'legato' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "legato.errors")), name)


def __dir__() -> list[str]:
    return __all__
