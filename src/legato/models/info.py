"""What the engine and the server need to know about a loaded model."""

from __future__ import annotations

from typing import Any

import msgspec


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Crosses the process border with the engine's ready message; imports nothing heavy."""

    name: str
    architecture: str
    vocab_size: int
    max_model_len: int  # tokens of prompt and output together
    num_blocks: int  # in the KV pool, batch.BLOCK_SIZE positions each
    eos_token_ids: list[int] = []
    weight_bytes: int = 0  # packed, in memory
    kv_bytes_per_block: int = 0  # of all layers, a draft model's too
    kv_cache_tokens: int = 0  # that all blocks have room for
    default_sampling: dict[str, Any] = {}  # from generation_config.json
    weights: str = ""  # tells them from others under the same name

    def known(self, ids: set[int]) -> set[int]:
        """Those that the model has. Its files may name others, and each of them not all ends."""
        return {id for id in ids if 0 <= id < self.vocab_size}
