"""What crosses the border between the server's process and the engine's: msgpack, tagged structs.

Commands go to the engine, events come back. ``Start`` is the first command, ``Ready`` or ``Failed``
ends loading.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from legato.config import EngineConfig
from legato.constraint.spellings import Spellings
from legato.models.info import ModelInfo
from legato.request import Output, Request

SLOW_DISK = 50e6  # bytes a second


class StepKind(StrEnum):
    """What a step computed: next tokens, chunks of prompts, or both."""

    DECODE = "decode"
    PREFILL = "prefill"
    MIXED = "mixed"


class Stats(msgspec.Struct, kw_only=True):
    """The engine's counters. Blocks are now; the others count from the engine's start."""

    running: int = 0  # sequences
    waiting: int = 0
    blocks_total: int = 0
    blocks_free: int = 0
    blocks_cached: int = 0  # unused, but a prefix may find them
    blocks_used: int = 0
    steps: int = 0
    last_step_seconds: float = 0.0
    last_step_tokens: int = 0
    last_step_kind: StepKind = StepKind.DECODE
    preemptions: int = 0
    prompt_tokens: int = 0  # of admitted requests
    cached_tokens: int = 0  # those of them that were found in the cache
    generation_tokens: int = 0
    drafted_tokens: int = 0  # computed ahead because a constraint knew them
    drafted_accepted: int = 0  # those of them that were right
    guessed_tokens: int = 0  # the same of what was guessed
    guessed_accepted: int = 0


# -- commands -----------------------------------------------------------------------------------
class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server's engine needs to know besides its ``EngineConfig``. ``cache_dir``: where the prefix
    cache outlives it, if anywhere, in at most ``cache_dir_size`` bytes."""

    log_format: str = "text"
    log_level: str = "warning"
    cache_dir: str | None = None
    cache_dir_size: int = 0

    @property
    def stop_seconds(self) -> float:
        """What the process may take to end: its step, and what it writes."""
        return 2.0 + (self.cache_dir_size / SLOW_DISK if self.cache_dir else 0.0)


class Start(msgspec.Struct, tag=True):
    """Load the model."""

    config: EngineConfig
    settings: ProcessSettings


class Describe(msgspec.Struct, tag=True):
    """What the tokens spell, for requests that constrain theirs."""

    spellings: Spellings


class Add(msgspec.Struct, tag=True):
    """Begin a request."""

    request: Request


class Cancel(msgspec.Struct, tag=True):
    """Stop a request, or one of its choices."""

    request_id: str
    index: int | None = None


class Rank(msgspec.Struct, tag=True):
    """A request has another priority from now on."""

    request_id: str
    priority: int


class Check(msgspec.Struct, tag=True):
    """Run ``check_integrity``; ``clear``: forget all cached blocks. Answered by ``Checked``."""

    clear: bool = False


class Stop(msgspec.Struct, tag=True):
    """Exit."""


Command = Start | Describe | Add | Cancel | Rank | Check | Stop


# -- events -------------------------------------------------------------------------------------
class Loading(msgspec.Struct, tag=True):
    """Progress of loading: what is being done."""

    what: str


class Ready(msgspec.Struct, tag=True):
    """The model is loaded."""

    info: ModelInfo
    stats: Stats


class Failed(msgspec.Struct, tag=True):
    """Loading failed with ``kind``, a class of ``legato.errors``."""

    kind: str
    message: str
    field: str | None = None


class Refused(msgspec.Struct, tag=True):
    """A request was not accepted."""

    request_id: str
    kind: str
    message: str
    field: str | None = None


class Stepped(msgspec.Struct, tag=True):
    """What a step brought."""

    outputs: list[Output]
    stats: Stats


class Checked(msgspec.Struct, tag=True):
    """``problem``: what ``check_integrity`` found; None: the pool balances."""

    problem: str | None
    stats: Stats


Event = Loading | Ready | Failed | Refused | Stepped | Checked
