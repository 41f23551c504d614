"""From a model's name to a program that is ready to run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
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
from legato.weights.files import ModelFiles
from legato.weights.packed_file import packed_file
from legato.weights.quantize import weight_bytes
from legato.weights.tensor import Checkpoint

if TYPE_CHECKING:
    from legato import _native as native

log = logging.getLogger(__name__)
ELEMENT_BYTES: Final = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Origin:
    """What a program was made from. ``place``: where the model is, how its keys and values are stored, and
    what its weights were quantised to."""

    spec: ModelSpec
    sources: list[Path]  # the files of its weights
    place: tuple[str, str, str]


@dataclass(frozen=True)
class LoadedModel:
    """``program`` has its weights packed and its KV pool reserved. ``draft``: what guesses for it."""

    program: native.Program
    info: ModelInfo
    origin: Origin
    draft: LoadedModel | None = None


@dataclass(frozen=True)
class KVPlan:
    """Sizes of the KV cache."""

    max_model_len: int  # tokens
    blocks: int
    bytes_per_block: int  # with a draft model's


@dataclass(frozen=True)
class Opened:
    """A model's files, before its weights are read."""

    files: ModelFiles
    checkpoint: Checkpoint
    spec: ModelSpec
    quantization: str


def load(config: EngineConfig) -> LoadedModel:
    """Raises ``ModelError`` (naming file and key) or ``ConfigError`` (naming the setting)."""
    model = open_model(config.model, config.quantization)
    context = context_length(config, model.spec)
    draft = None
    if config.draft_model is not None:
        draft = open_model(config.draft_model, config.draft_quantization)
        need_same_vocabulary(draft.spec, model.spec)
    plan = plan_kv(config, model.spec, context, None if draft is None else draft.spec)
    program = lowered(config, model, None)
    reserve(config, program, model.spec, plan.blocks)
    loaded = LoadedModel(program, describe(model, program, plan), origin_of(config, model))
    if draft is None:
        return loaded
    helper = lowered(config, draft, program)
    reserve(config, helper, draft.spec, plan.blocks)
    shorter = KVPlan(
        min(plan.max_model_len, draft.spec.max_positions),
        plan.blocks,
        bytes_per_block(config, draft.spec),
    )
    return replace(
        loaded,
        draft=LoadedModel(helper, describe(draft, helper, shorter), origin_of(config, draft)),
    )


def origin_of(config: EngineConfig, model: Opened) -> Origin:
    place = (str(model.files.path.absolute()), config.resolved_kv_cache_dtype, model.quantization)
    return Origin(model.spec, model.checkpoint.weight_files, place)


def open_model(name: str, quantization: str) -> Opened:
    files = hub.resolve(name)
    checkpoint = checkpoints.open(files)
    return Opened(files, checkpoint, read_spec(checkpoint.config), quantization)


def need_same_vocabulary(draft: ModelSpec, model: ModelSpec) -> None:
    if draft.embed.vocab != model.embed.vocab:
        raise ConfigError(
            f"draft_model has a vocabulary of {draft.embed.vocab} tokens, the model one of "
            f"{model.embed.vocab}",
            "draft_model",
        )


def lowered(config: EngineConfig, model: Opened, beside: native.Program | None) -> native.Program:
    """A program with the model's weights, which runs on the threads of ``beside``. Raises ModelError."""
    need_memory(model)
    program = new_program(config, beside)
    kept = packed_file(
        config.load_cache,
        model.files.path,
        model.checkpoint,
        model.quantization,
        program.isa,
        program.threads,
    )
    try:
        lower(model.spec, model.checkpoint, program, model.quantization, kept)
    except ValueError as error:  # a size that the core does not have room for
        raise ModelError(f"{model.files.path}: {error}") from error
    kept.save(program)
    return program


def reserve(config: EngineConfig, program: native.Program, spec: ModelSpec, blocks: int) -> None:
    first = spec.attentions[0]
    program.kv_cache(
        layers=len(spec.attentions),
        blocks=blocks,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        dtype=config.resolved_kv_cache_dtype,
    )


def describe(model: Opened, program: native.Program, plan: KVPlan) -> ModelInfo:
    return ModelInfo(
        name=model.files.name,
        architecture=model.spec.architecture,
        vocab_size=model.spec.embed.vocab,
        max_model_len=plan.max_model_len,
        num_blocks=plan.blocks,
        kv_bytes_per_block=plan.bytes_per_block,
        kv_cache_tokens=plan.blocks * BLOCK_SIZE,
        weight_bytes=program.weight_bytes(),
        eos_token_ids=model.checkpoint.eos_token_ids,
        default_sampling=model.checkpoint.default_sampling,
        weights=fingerprint(model),
    )


def fingerprint(model: Opened) -> str:
    """Of what it computes."""
    weights = checkpoints.fingerprint(model.checkpoint)
    return blake2b(
        repr((model.spec, model.quantization, weights)).encode(), digest_size=16
    ).hexdigest()


def need_memory(model: Opened) -> None:
    """Weights that do not fit would end the process without a word."""
    needed, free = weight_bytes(model.checkpoint, model.quantization), available_memory()
    if needed > free:
        raise ModelError(
            f"{model.files.name}: its weights take {needed // 2**20} MB of memory, {free // 2**20} MB are free"
            + ("" if model.quantization == "int4" else " (--quantization int8 or int4 may help)")
        )


def new_program(config: EngineConfig, beside: native.Program | None = None) -> native.Program:
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
        beside=beside,
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
    """Of one position's keys, or values: what lies in pairs is padded, integers have a float scale."""
    padded = -(-head_dim // 16) * 16
    if dtype == "int8":
        return padded + 4
    return (padded if dtype == "bfloat16" else head_dim) * ELEMENT_BYTES[dtype]


def bytes_per_block(config: EngineConfig, spec: ModelSpec) -> int:
    """Of all layers."""
    dtype = config.resolved_kv_cache_dtype
    return sum(
        2 * step.kv_heads * head_bytes(step.head_dim, dtype) * BLOCK_SIZE
        for step in spec.attentions
    )


def plan_kv(
    config: EngineConfig, spec: ModelSpec, context: int, draft: ModelSpec | None = None
) -> KVPlan:
    """As many blocks as the memory holds, but no more than all sequences at full length need;
    a draft model has as many.

    When one sequence of ``context`` tokens does not fit, a default context shrinks to what does; a
    context that was asked for is an error.
    """
    each = sum(bytes_per_block(config, one) for one in (spec, draft) if one is not None)
    affordable = config.resolved_kv_cache_memory() // each
    if affordable < 1:
        raise ConfigError(
            f"kv_cache_memory is too small: one block of {BLOCK_SIZE} tokens takes {each} bytes",
            "kv_cache_memory",
        )
    needed = -(-context // BLOCK_SIZE)
    if needed > affordable:
        if config.max_model_len is not None:
            raise ConfigError(
                f"max_model_len {context} needs {needed * each} bytes of KV cache, "
                f"{affordable * each} are available: lower it or raise kv_cache_memory",
                "max_model_len",
            )
        log.warning(
            "max_model_len is %d instead of the model's %d tokens: the KV cache holds no more",
            affordable * BLOCK_SIZE,
            context,
        )
        context = affordable * BLOCK_SIZE
    return KVPlan(context, min(affordable, config.max_num_seqs * needed), each)
