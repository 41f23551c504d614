"""Which architectures are served, by the names that checkpoints give themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from legato.models.gemma import gemma3
from legato.models.llama import llama
from legato.models.mistral import mistral
from legato.models.qwen import qwen2, qwen3
from legato.models.spec import ModelSpec
from legato.weights.model_config import ModelConfig

ARCHITECTURES: Final[dict[str, Callable[[ModelConfig], ModelSpec]]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Gemma3ForCausalLM": gemma3,
    "Gemma3ForConditionalGeneration": gemma3,
}
"""By the first of ``architectures`` in config.json."""

MODEL_TYPES: Final[dict[str, Callable[[ModelConfig], ModelSpec]]] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma3": gemma3,
    "gemma3_text": gemma3,
}
"""By ``model_type``, where ``architectures`` is missing (GGUF files; folders saved by hand)."""


def read_spec(config: ModelConfig) -> ModelSpec:
    """Raises ``ModelError`` naming file and key."""
    if config.has("architectures"):
        name = str((config.items("architectures") or [None])[0])
        if name not in ARCHITECTURES:
            config.refuse(
                "architectures",
                f"{name!r} is not supported (supported: {', '.join(ARCHITECTURES)})",
            )
        return ARCHITECTURES[name](config)
    name = config.text("model_type")
    if name not in MODEL_TYPES:
        config.refuse(
            "model_type", f"{name!r} is not supported (supported: {', '.join(MODEL_TYPES)})"
        )
    return MODEL_TYPES[name](config)
