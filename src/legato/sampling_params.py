"""Which sampling parameters are allowed, what a model prefers, and where a seed comes from.

The engine trusts ``SamplingParams``; everything that comes from outside passes ``validate`` first.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import msgspec

from legato.errors import RequestError
from legato.request import SamplingParams

GREEDY_BELOW = 1e-5
"""Temperatures below this are 0, as in vLLM: the softmax is an argmax there, or overflows."""

DEFAULT_MAX_TOKENS = 16
"""Of a completion that does not say; OpenAI's, and vLLM's."""

MAX_CHOICES = 128
MAX_COUNT = 2**31 - 1
MAX_LOGPROBS = 20
MAX_STOPS, MAX_STOPS_LENGTH = 128, 8192
"""Stop strings, and their characters together: each is looked for in the text of every token."""

MODEL_PREFERENCES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""What a model's ``generation_config.json`` may set for requests that are silent about it."""


@dataclass(frozen=True)
class Limit:
    """The closed interval of allowed values; ``above`` excludes the lower end."""

    low: float
    high: float
    above: bool = False

    def allows(self, value: float) -> bool:
        low_enough = value > self.low if self.above else value >= self.low
        return low_enough and value <= self.high

    def __str__(self) -> str:
        return f"{'above' if self.above else 'at least'} {self.low:g} and at most {self.high:.10g}"


LIMITS = {
    "n": Limit(1, MAX_CHOICES),
    "max_tokens": Limit(1, MAX_COUNT),
    "min_tokens": Limit(0, MAX_COUNT),
    "temperature": Limit(0, 1e6),
    "top_k": Limit(-1, MAX_COUNT),
    "top_p": Limit(0, 1, above=True),
    "min_p": Limit(0, 1),
    "repetition_penalty": Limit(1e-6, 1e6),
    "presence_penalty": Limit(-2, 2),
    "frequency_penalty": Limit(-2, 2),
    "seed": Limit(-(2**63), 2**63 - 1),
    "logprobs": Limit(0, MAX_LOGPROBS),
    "prompt_logprobs": Limit(0, MAX_LOGPROBS),
}
LOGIT_BIAS = Limit(-100, 100)


def from_fields(
    given: Mapping[str, Any], model_preferences: Mapping[str, Any] | None = None
) -> SamplingParams:
    """The parameters a request asked for: its own fields, else the model's preferences, else ours.
    Preferences that no request could have count for nothing.

    ``given`` may hold other fields of the request, and None for those that were not sent.
    """
    values: dict[str, Any] = {}
    for name in MODEL_PREFERENCES:
        preference = (model_preferences or {}).get(name)
        if preference is not None and _is_sound(name, preference):
            values[name] = preference
    for name in SamplingParams.__struct_fields__:
        if given.get(name) is not None:
            values[name] = given[name]
    if isinstance(values.get("stop"), str):
        values["stop"] = [values["stop"]]
    return SamplingParams(**values)


def unsound(preferences: Mapping[str, Any]) -> list[str]:
    """What is wrong with a model's preferences, a line each."""
    return [
        f"the model's {name} is {value!r:.40}, but must be {LIMITS[name]}: it is not used"
        for name, value in preferences.items()
        if name in MODEL_PREFERENCES and not _is_sound(name, value)
    ]


def _is_sound(name: str, value: Any) -> bool:
    numbers = int if name == "top_k" else (int, float)
    is_number = isinstance(value, numbers) and not isinstance(value, bool)
    return is_number and LIMITS[name].allows(value)


def validate(
    params: SamplingParams, vocab_size: int | None = None, given: int = 0
) -> SamplingParams:
    """The parameters as the engine gets them. ``given``: tokens of the answer that are there already;
    ``min_tokens`` counts them, ``max_tokens`` does not.

    Raises RequestError, naming field and limit, for a wrong type, a value out of range or NaN.
    """
    params = _typed(params)
    for name, limit in LIMITS.items():
        value = getattr(params, name)
        if value is not None and not limit.allows(value):
            raise RequestError(f"{name} must be {limit}, got {value}", name)
    _check_lists(params, given)
    if vocab_size is not None:
        _check_token_ids(params, vocab_size)
    return msgspec.structs.replace(
        params,
        temperature=0.0 if params.temperature < GREEDY_BELOW else params.temperature,
        top_k=max(params.top_k, 0),
        # The native core counts in unsigned 64 bits, and choice i adds i to the seed.
        seed=None if params.seed is None else params.seed % 2**63,
    )


def _typed(params: SamplingParams) -> SamplingParams:
    """A copy with every field of its declared type; callers of the Python API may pass anything. None is
    what a request would have that does not name the field."""
    given = msgspec.structs.asdict(params)
    given = {name: _plain(value) for name, value in given.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    try:
        return msgspec.convert(given, SamplingParams)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        field = path.strip("`").rpartition("$.")[2].partition("[")[0] or None
        raise RequestError(f"{field}: {what[0].lower()}{what[1:]}", field) from None


def _plain(value: Any) -> Any:
    """NumPy's numbers, say, as Python's own."""
    if type(value) in (int, float, str, bool):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _check_lists(params: SamplingParams, given: int) -> None:
    if len(params.stop) > MAX_STOPS:
        raise RequestError(f"stop has {len(params.stop)} texts, at most {MAX_STOPS} are", "stop")
    length = sum(map(len, params.stop))
    if length > MAX_STOPS_LENGTH:
        raise RequestError(f"stop has {length} characters, at most {MAX_STOPS_LENGTH} are", "stop")
    if "" in params.stop:
        raise RequestError("stop must not contain an empty string", "stop")
    if params.max_tokens is not None and params.min_tokens > params.max_tokens + given:
        already = f" and the {given} tokens that were given" if given else ""
        raise RequestError(
            f"min_tokens must be at most max_tokens ({params.max_tokens}){already}, "
            f"got {params.min_tokens}",
            "min_tokens",
        )
    if params.allowed_token_ids is not None and not params.allowed_token_ids:
        raise RequestError("allowed_token_ids must not be empty", "allowed_token_ids")
    for token, bias in (params.logit_bias or {}).items():
        if not LOGIT_BIAS.allows(bias):
            raise RequestError(
                f"logit_bias of token {token} must be {LOGIT_BIAS}, got {bias}", "logit_bias"
            )


def _check_token_ids(params: SamplingParams, vocab_size: int) -> None:
    lists = {
        "logit_bias": params.logit_bias or {},
        "allowed_token_ids": params.allowed_token_ids or [],
        "stop_token_ids": params.stop_token_ids,
    }
    for field, token_ids in lists.items():
        if len(token_ids) > vocab_size:
            raise RequestError(
                f"{field} has {len(token_ids)} token ids, the model has {vocab_size}", field
            )
        check_in_vocabulary(token_ids, vocab_size, field)


def check_in_vocabulary(token_ids: Any, vocab_size: int, field: str) -> None:
    """Raise RequestError naming the first token id that the model does not have."""
    for token in token_ids:
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"{field} has token id {token}, the model's ids are 0 to {vocab_size - 1}", field
            )


class SeedSource:
    """Seeds for requests that bring none: a sequence which the engine's seed determines.

    The k-th such request after a start gets the k-th seed, so a run can be repeated as a whole,
    while asking the same question twice still gives two different samples. A base of -1 draws the
    base from the system: nothing is repeatable then, unless requests bring seeds.
    """

    def __init__(self, base: int) -> None:
        self._state = secrets.randbits(64) if base == -1 else base % 2**64

    def draw(self) -> int:
        """The next seed, 0 <= seed < 2**63 (SplitMix64: neighbouring bases are unrelated)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) % 2**64
        mixed = self._state
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        return (mixed ^ (mixed >> 31)) >> 1
