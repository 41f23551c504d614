"""A program whose KV cache really stores tokens: wrong slots, tables or copies give other tokens.

The next token is a pure function of the tokens that are visible through the block table and of how
the row is to be sampled. ``expected`` is the same function of a plain list of tokens, without
cache, batch or scheduler: the oracle.
"""

from __future__ import annotations

import hashlib
import os
import time
from copy import copy
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from legato.batch import BLOCK_SIZE, Batch
from legato.config import EngineConfig
from legato.constraint.tokens import TokenTable
from legato.errors import ConfigError, ModelError
from legato.models.info import ModelInfo
from legato.request import Request, SamplingParams

VOCAB = 50
SPECIAL = {0}
LETTERS = "abcdefg"
TOKENS = [
    b"</s>",
    *(letter.encode() for letter in LETTERS),
    *((one + other).encode() for one in LETTERS[:6] for other in LETTERS),
]
"""Control token 0, single letters, and pairs of letters."""
assert len(TOKENS) == VOCAB

TABLE = TokenTable.of(TOKENS, SPECIAL, [0])


def model_info(num_blocks: int = 64, max_model_len: int = 1000) -> ModelInfo:
    return ModelInfo(
        name="fake",
        architecture="fake",
        vocab_size=VOCAB,
        max_model_len=max_model_len,
        num_blocks=num_blocks,
    )


def digest(*values: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "little")


def next_token(tokens: list[int], how: tuple[object, ...], allowed: list[int]) -> int:
    return allowed[digest(tokens, how) % len(allowed)]


def log_probability(tokens: list[int], token: int) -> float:
    return -float(np.float32(digest(tokens, token) % 1000) / 100)


@dataclass
class FakeProgram:
    """``broken``: a batch that holds this token fails. ``nan``: after this token, no logits are numbers."""

    num_blocks: int = 64
    broken: int = -1
    nan: int = -1
    steps: int = 0
    rows: list[int] = field(default_factory=list)  # of each step

    def __post_init__(self) -> None:
        # token and position of each slot; -1: never written
        self.memory = np.full((self.num_blocks, 2 * BLOCK_SIZE), -1)
        self.tokens, self.positions = np.hsplit(self.memory, 2)

    def kv_block_bytes(self) -> int:
        return int(self.memory[0].nbytes)

    def read_kv_block(self, block: int) -> bytes:
        return self.memory[block].tobytes()

    def write_kv_block(self, block: int, data: NDArray[np.uint8]) -> None:
        self.memory[block] = data.view(self.memory.dtype)

    def run(self, batch: Batch) -> tuple[np.ndarray, ...]:
        if self.broken in batch.token_ids:
            raise ValueError("token_ids: broken")
        check_shapes(batch)
        self.steps += 1
        self.rows.append(len(batch.token_ids))
        for source, destination in batch.block_copies:
            self.tokens[destination] = self.tokens[source]
            self.positions[destination] = self.positions[source]
        blocks, offsets = np.divmod(batch.slots, BLOCK_SIZE)
        assert len(set(batch.slots.tolist())) == len(batch.slots), "a slot is written twice"
        self.tokens[blocks, offsets] = batch.token_ids
        self.positions[blocks, offsets] = batch.positions
        return self._sample(batch)

    def decoding(self, batch: Batch) -> FakeDecoding:
        assert len(batch.logit_rows) == len(batch.token_ids)
        return FakeDecoding(self, batch)

    def visible(self, batch: Batch, row: int) -> list[int]:
        """The tokens that row's attention sees."""
        table = batch.block_tables[batch.sequences[row]]
        length = int(batch.positions[row]) + 1
        used = table[: -(-length // BLOCK_SIZE)]
        assert self.positions[used].ravel()[:length].tolist() == list(range(length))
        return self.tokens[used].ravel()[:length].tolist()

    def _sample(self, batch: Batch) -> tuple[np.ndarray, ...]:
        s = batch.sampling
        rows = len(batch.logit_rows)
        width = max(s.num_logprobs.max(initial=0), 0)
        token_ids = np.zeros(rows, np.int32)
        logprobs = np.full(rows, np.nan, np.float32)
        ranks = np.zeros(rows, np.int32)
        top_ids = np.full((rows, width), -1, np.int32)
        top_logprobs = np.full((rows, width), np.nan, np.float32)
        for r, row in enumerate(batch.logit_rows.tolist()):
            tokens = self.visible(batch, row)
            token = int(s.forced[r])
            if token < 0:
                token = draw(batch, r, tokens)
            token_ids[r] = -1 if self.nan in tokens else token
            if s.num_logprobs[r] >= 0:
                logprobs[r], ranks[r] = log_probability(tokens, token), 1 + len(tokens)
                for i in range(s.num_logprobs[r]):
                    top_ids[r, i], top_logprobs[r, i] = i, log_probability(tokens, i)
        return token_ids, logprobs, ranks, top_ids, top_logprobs, np.empty(0, np.uint64)


class FakeDecoding:
    """It holds the batch's arrays, whatever the batch has later."""

    def __init__(self, program: FakeProgram, batch: Batch) -> None:
        self.program, self.batch = program, copy(batch)
        self.batch.sampling = copy(batch.sampling)

    def step(self, tokens: list[int]) -> list[int]:
        batch = self.batch
        batch.token_ids[:] = tokens
        batch.positions += 1
        batch.sampling.draw_position += 1
        blocks = batch.block_tables[batch.sequences, batch.positions // BLOCK_SIZE]
        batch.slots[:] = blocks * BLOCK_SIZE + batch.positions % BLOCK_SIZE
        return self.program.run(batch)[0].tolist()


class OftenRight(FakeProgram):
    """A draft model: of four tokens three are those of the other."""

    def _sample(self, batch: Batch) -> tuple[np.ndarray, ...]:
        token_ids, *rest = super()._sample(batch)
        for r, row in enumerate(batch.logit_rows.tolist()):
            if digest("wrong", self.visible(batch, row)) % 4 == 0:
                token_ids[r] = (token_ids[r] + 1) % VOCAB
        return token_ids, *rest


def draw(batch: Batch, r: int, tokens: list[int]) -> int:
    """Under a soft mask twice, if the first token does not fit."""
    s = batch.sampling
    how = how_of_row(batch, r)
    if s.fallback_index[r] < 0:
        return next_token(tokens, how, allowed_of_row(batch, r, int(s.mask_index[r])))
    token = next_token(tokens, how, allowed_of_row(batch, r, -1))
    if token in allowed_of_row(batch, r, int(s.mask_index[r])):
        return token
    return again(tokens, how, allowed_of_row(batch, r, int(s.fallback_index[r])))


def again(tokens: list[int], how: tuple[object, ...], allowed: list[int]) -> int:
    """The second draw."""
    return next_token(tokens, ("again", *how), allowed)


def check_shapes(batch: Batch) -> None:
    rows, logits, s = len(batch.token_ids), len(batch.logit_rows), batch.sampling
    assert rows and batch.positions.shape == batch.sequences.shape == batch.slots.shape == (rows,)
    assert batch.block_tables.flags.c_contiguous and batch.block_copies.shape[1:] == (2,)
    assert (np.diff(batch.logit_rows) > 0).all() and (np.diff(batch.sequences) >= 0).all()
    for name in (
        "token_ids",
        "positions",
        "sequences",
        "slots",
        "block_tables",
        "block_copies",
    ):
        assert getattr(batch, name).dtype == np.int32, name
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "bias_values"):
        assert getattr(s, name).dtype == np.float32 and getattr(s, name).flags.c_contiguous, name
    for name in (
        "top_k",
        "forced",
        "num_logprobs",
        "mask_index",
        "prompt_ids",
        "output_ids",
    ):
        assert getattr(s, name).dtype == np.int32, name
    for name in (
        "temperature",
        "top_k",
        "seed",
        "draw_position",
        "forced",
        "mask_index",
    ):
        assert getattr(s, name).shape == (logits,), name
    for name in ("prompt", "output", "bias"):
        indptr, ids = getattr(s, f"{name}_indptr"), getattr(s, f"{name}_ids")
        assert indptr.dtype == np.int32 and indptr.shape == (logits + 1,)
        assert indptr[0] == 0 and indptr[-1] == len(ids)
    assert s.masks.dtype == np.uint32 and s.masks.shape[1] == -(-VOCAB // 32)


def how_of_row(batch: Batch, r: int) -> tuple[object, ...]:
    """Everything that decides how the row is sampled, besides what is allowed."""
    s = batch.sampling
    penalties = tuple(
        round(float(p[r]), 3)
        for p in (s.repetition_penalty, s.presence_penalty, s.frequency_penalty)
    )
    prompt = s.prompt_ids[s.prompt_indptr[r] : s.prompt_indptr[r + 1]].tolist()
    output = s.output_ids[s.output_indptr[r] : s.output_indptr[r + 1]].tolist()
    filters = (
        round(float(s.top_p[r]), 3),
        round(float(s.min_p[r]), 3),
        int(s.top_k[r]),
    )
    drawn = (int(s.seed[r]), int(s.draw_position[r]))
    temperature = round(float(s.temperature[r]), 3)
    return penalties, sorted(set(prompt)), output, filters, temperature, drawn


def allowed_of_row(batch: Batch, r: int, mask: int) -> list[int]:
    s = batch.sampling
    span = slice(s.bias_indptr[r], s.bias_indptr[r + 1])
    bias = dict(zip(s.bias_ids[span].tolist(), s.bias_values[span].tolist(), strict=True))
    allowed = [t for t in range(VOCAB) if bias.get(t) != -np.inf]
    if mask >= 0:
        words = s.masks[mask].tolist()
        allowed = [t for t in allowed if words[t // 32] >> (t % 32) & 1]
    return allowed + sorted(t for t in allowed if bias.get(t, 0) > 0)


def expected(request: Request, index: int, max_model_len: int) -> tuple[list[int], str]:
    """The whole output of a choice (resumed tokens included) and why it ends."""
    params = request.params
    stops = set(params.stop_token_ids)
    stops |= set() if params.ignore_eos else set(request.eos_token_ids)
    output = list(request.output_token_ids)
    pending, most = request.pending, params.max_tokens or 10**9
    draft = list(request.draft_token_ids)
    if not b"".join(TOKENS[id] for id in draft).startswith(pending):
        draft = []
    while True:
        total = len(request.prompt_token_ids) + len(output)
        if total >= max_model_len or most <= len(output):
            return output, "length"
        output.append(expected_token(request, params, index, output, stops, pending, draft))
        draft = draft[1:] if draft[:1] == output[-1:] else []
        spelled = len(TOKENS[output[-1]])
        is_given = spelled <= len(pending)
        if output[-1] in stops and not is_given:
            return output, "stop"
        most, pending = most + is_given, pending[spelled:]


def expected_token(
    request: Request,
    params: SamplingParams,
    index: int,
    output: list[int],
    stops: set[int],
    pending: bytes,
    draft: list[int],
) -> int:
    bias = params.logit_bias or {}
    allowed = [t for t in range(VOCAB) if bias.get(t) != -np.inf]
    if len(output) < params.min_tokens and not pending:
        allowed = [t for t in allowed if t not in stops]
    if params.allowed_token_ids is not None:
        allowed = [t for t in allowed if t in params.allowed_token_ids]
    allowed += sorted(t for t in allowed if bias.get(t, 0) > 0)
    penalties = (
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
    )
    penalised = penalties != (1.0, 0.0, 0.0)
    prompt = sorted(set(request.prompt_token_ids)) if params.repetition_penalty != 1.0 else []
    filters = (params.top_p, params.min_p, max(params.top_k, 0))
    how = (
        tuple(round(p, 3) for p in penalties),
        prompt,
        output if penalised else [],
        tuple(round(f, 3) for f in filters),
        round(params.temperature, 3),
        ((params.seed or 0) + index, len(request.prompt_token_ids) + len(output)),
    )
    tokens = request.prompt_token_ids + output
    token = next_token(tokens, how, allowed)
    if not pending or token in fitting(pending, allowed):
        return token
    return again(tokens, how, canonical(pending, allowed, draft))


def fitting(pending: bytes, allowed: list[int]) -> list[int]:
    """The beginnings of ``pending``, and what goes beyond it."""
    return [
        t
        for t in allowed
        if t not in SPECIAL and (pending.startswith(TOKENS[t]) or TOKENS[t].startswith(pending))
    ]


def canonical(pending: bytes, allowed: list[int], draft: list[int]) -> list[int]:
    """The draft's token, alone if it goes beyond, or the longest beginning, and what goes beyond."""
    if draft and len(TOKENS[draft[0]]) > len(pending):
        return [t for t in allowed if t == draft[0]]
    longest = max(
        (t for t in range(VOCAB) if t not in SPECIAL and pending.startswith(TOKENS[t])),
        key=lambda t: len(TOKENS[t]),
    )
    chosen = draft[0] if draft else longest
    return [t for t in fitting(pending, allowed) if t == chosen or TOKENS[t].startswith(pending)]


@dataclass
class FakeModel:
    """What a loader returns."""

    program: FakeProgram
    info: ModelInfo
    draft: None = None


def load(config: EngineConfig) -> FakeModel:
    """A loader for the engine's process. The model's name says what shall go wrong."""
    if config.model == "missing":
        raise ModelError("missing.gguf: no such file")
    if config.model == "unsettable":
        raise ConfigError("threads: too many", "threads")
    if config.model == "crash":
        os._exit(3)
    if config.model.startswith("slow"):
        program: FakeProgram = SlowProgram()
    else:
        program = FakeProgram()
    return FakeModel(program, model_info())


def load_other_weights(config: EngineConfig) -> FakeModel:
    """A loader that finds the files changed."""
    model = load(config)
    model.info = replace(model.info, weights="others")
    return model


class SlowProgram(FakeProgram):
    """A prompt that begins with token 49 kills the process, one with 48 hangs."""

    def run(self, batch: Batch) -> tuple[np.ndarray, ...]:
        time.sleep(0.01)
        first = batch.token_ids[batch.positions == 0]
        if 49 in first:
            os._exit(7)
        if 48 in first:
            time.sleep(1000)
        return super().run(batch)
