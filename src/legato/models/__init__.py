"""Models: declared in terms of layers, lowered to a native program. ``load`` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.models.info import ModelInfo

if TYPE_CHECKING:
    from legato.config import EngineConfig
    from legato.models.loading import LoadedModel

__all__ = ["ModelInfo", "load"]


def load(config: EngineConfig) -> LoadedModel:
    """Raises ``ModelError`` (naming file and key) or ``ConfigError`` (naming the setting)."""
    # the server's process wants ModelInfo alone, without numpy and the weights
    from legato.models.loading import load as load_model

    return load_model(config)
