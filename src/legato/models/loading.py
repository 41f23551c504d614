"""From a model's name to a program that is ready to run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from legato.batch import BLOCK_SIZE
from legato.config import EngineConfig, available_memory
from legato.errors import ConfigError, ModelError
from legato.models.info import ModelInfo
from legato.models.lower import lower
from legato.models.registry import read_spec
from legato.models.spec import ModelSpec
from legato.weights import checkpoint as checkpoints
from legato.weights import hub
from legato.weights.packed_file import packed_file
from legato.weights.quantize import weight_bytes
from legato.weights.tensor import Checkpoint

if TYPE_CHECKING:
    from legato import _native as native

log = logging.getLogger(__name__)
ELEMENT_BYTES: Final = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class LoadedModel:
    """``program`` has its weights packed and its KV pool reserved."""

    program: native.Program
    info: ModelInfo


@dataclass(frozen=True)
class KVPlan:
    """Sizes of the KV cache."""

    max_model_len: int  # tokens
    blocks: int
    bytes_per_block: int


def load(config: EngineConfig) -> LoadedModel:
    """Raises ``ModelError`` (naming file and key) or ``ConfigError`` (naming the setting)."""
    files = hub.resolve(config.model)
    checkpoint = checkpoints.open(files)
    spec = read_spec(checkpoint.config)
    context = context_length(config, spec)
    need_memory(config, files.name, checkpoint)
    program = new_program(config)
    kept = packed_file(
        config.load_cache,
        files.path,
        checkpoint,
        config.quantization,
        program.isa,
        program.threads,
    )
    lower(spec, checkpoint, program, config.quantization, kept)
    kept.save(program)
    plan = plan_kv(config, spec, context)
    first = spec.attentions[0]
    program.kv_cache(
        layers=len(spec.attentions),
        blocks=plan.blocks,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        dtype=config.resolved_kv_cache_dtype,
    )
    info = ModelInfo(
        name=files.name,
        architecture=spec.architecture,
        vocab_size=spec.embed.vocab,
        max_model_len=plan.max_model_len,
        num_blocks=plan.blocks,
        kv_bytes_per_block=plan.bytes_per_block,
        weight_bytes=program.weight_bytes(),
        eos_token_ids=checkpoint.eos_token_ids,
        default_sampling=checkpoint.default_sampling,
    )
    return LoadedModel(program, info)


def need_memory(config: EngineConfig, name: str, checkpoint: Checkpoint) -> None:
    """Weights that do not fit would end the process without a word."""
    needed, free = weight_bytes(checkpoint, config.quantization), available_memory()
    if needed > free:
        raise ModelError(
            f"{name}: its weights take {needed // 2**20} MB of memory, {free // 2**20} MB are free"
            + ("" if config.quantization == "int4" else " (--quantization int8 or int4 may help)")
        )


def new_program(config: EngineConfig) -> native.Program:
    """An empty program on the instruction set and threads of ``config``."""
    # the server's process reads ModelInfo without the core
    from legato import _native as native

    known = native.supported_isas()
    isa = config.resolved_isa or known[-1]
    if isa not in known:
        raise ConfigError(f"isa: {isa!r} is not one of {', '.join(known)}", "isa")
    return native.Program(
        isa=isa,
        threads=config.resolved_threads,
        max_tokens=config.max_num_batched_tokens,
        max_logit_rows=config.max_num_batched_tokens,  # prompt log-probabilities want every row
    )


def context_length(config: EngineConfig, spec: ModelSpec) -> int:
    """Tokens. A longer context than the model's own would give wrong answers, so it is refused."""
    if config.max_model_len is None:
        return spec.max_positions
    if config.max_model_len > spec.max_positions:
        raise ConfigError(
            f"max_model_len {config.max_model_len} is more than the model's {spec.max_positions}",
            "max_model_len",
        )
    return config.max_model_len


def head_bytes(head_dim: int, dtype: str) -> int:
    """Of one position's keys, or values: integers are padded and have a float scale."""
    if dtype == "int8":
        return -(-head_dim // 16) * 16 + 4
    return head_dim * ELEMENT_BYTES[dtype]


def plan_kv(config: EngineConfig, spec: ModelSpec, context: int) -> KVPlan:
    """As many blocks as the memory holds, but no more than all sequences at full length need.

    When one sequence of ``context`` tokens does not fit, a default context shrinks to what does; a
    context that was asked for is an error.
    """
    dtype = config.resolved_kv_cache_dtype
    bytes_per_block = sum(
        2 * step.kv_heads * head_bytes(step.head_dim, dtype) * BLOCK_SIZE
        for step in spec.attentions
    )
    affordable = config.resolved_kv_cache_memory() // bytes_per_block
    if affordable < 1:
        raise ConfigError(
            f"kv_cache_memory is too small: one block of {BLOCK_SIZE} tokens takes "
            f"{bytes_per_block} bytes",
            "kv_cache_memory",
        )
    needed = -(-context // BLOCK_SIZE)
    if needed > affordable:
        if config.max_model_len is not None:
            raise ConfigError(
                f"max_model_len {context} needs {needed * bytes_per_block} bytes of KV cache, "
                f"{affordable * bytes_per_block} are available: lower it or raise kv_cache_memory",
                "max_model_len",
            )
        log.warning(
            "max_model_len is %d instead of the model's %d tokens: the KV cache holds no more",
            affordable * BLOCK_SIZE,
            context,
        )
        context = affordable * BLOCK_SIZE
    return KVPlan(context, min(affordable, config.max_num_seqs * needed), bytes_per_block)
