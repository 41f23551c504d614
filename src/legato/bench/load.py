"""A load of streamed completions, and what each of them gave."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import nan
from typing import Any

from legato.bench.http_stream import Endpoint, Exchange, exchange, fetch_json
from legato.bench.rounds import Round, percentile
from legato.errors import RequestError


@dataclass(frozen=True)
class Load:
    """How requests arrive: ``concurrency`` at a time, or ``request_rate`` a second if it is given.

    With a rate, gaps are exponential (a Poisson process) and ``concurrency`` only caps them.
    """

    output_len: int
    concurrency: int
    model: str | None = None  # None: whatever the server serves
    request_rate: float | None = None
    seed: int = 0

    def body(self, prompt: list[int]) -> dict[str, Any]:
        """Fields that Legato, llama-server and vLLM all understand."""
        model = {} if self.model is None else {"model": self.model}
        return {
            **model,
            "prompt": prompt,
            "max_tokens": self.output_len,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass(frozen=True)
class Streamed:
    """One answer. ``arrivals``: when each event with a choice had come, after the request's start.

    ``text`` is the whole answer's, of a completion.
    """

    started: float
    ended: float
    arrivals: list[float]
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    text: str = ""

    @property
    def ttft(self) -> float:
        return self.arrivals[0] if self.arrivals else nan

    @property
    def time_per_token(self) -> float:
        """Seconds from one token to the next, after the first."""
        if self.output_tokens < 2:
            return nan
        return (self.arrivals[-1] - self.arrivals[0]) / (self.output_tokens - 1)

    @classmethod
    def read(cls, done: Exchange) -> Streamed:
        """Raises RequestError for an error status, an error event or a stream without usage."""
        arrivals: list[float] = []
        pieces: list[str] = []
        usage: dict[str, Any] | None = None
        for arrival, data in done.events():
            if data == b"[DONE]":
                break
            event = json.loads(data)
            if "error" in event:
                raise RequestError(f"the stream broke off: {event['error']}")
            usage = event.get("usage") or usage
            if not event.get("choices"):
                continue
            pieces.append(event["choices"][0].get("text") or "")
            # A last event that only says why it ended carries no token.
            if pieces[-1] or not arrivals:
                arrivals.append(arrival - done.started)
        if usage is None:
            raise RequestError("the stream ended without usage: the connection was cut")
        details = usage.get("prompt_tokens_details") or {}
        return cls(
            done.started,
            done.ended,
            arrivals,
            usage["prompt_tokens"],
            usage["completion_tokens"],
            details.get("cached_tokens") or 0,
            "".join(pieces),
        )


async def run_load(endpoint: Endpoint, load: Load, prompts: Sequence[list[int]]) -> list[Exchange]:
    """Sends all prompts; the messages are made before the clock starts. Raises RequestError if the server
    is gone for one of them."""
    messages = [endpoint.message("POST", "/v1/completions", load.body(p)) for p in prompts]
    places = asyncio.Semaphore(load.concurrency)
    arrivals = random.Random(load.seed)

    async def one(message: bytes) -> Exchange:
        async with places:
            return await exchange(endpoint, message)

    tasks = []
    try:
        async with asyncio.TaskGroup() as group:
            for message in messages:
                tasks.append(group.create_task(one(message)))
                if load.request_rate is not None:
                    await asyncio.sleep(arrivals.expovariate(load.request_rate))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # one says it
    return [task.result() for task in tasks]


def summary(answers: Sequence[Streamed]) -> Round:
    """One round: per-request medians and tails in milliseconds, totals a second."""
    duration = max(a.ended for a in answers) - min(a.started for a in answers)
    output = sum(a.output_tokens for a in answers)
    ttft = [a.ttft * 1e3 for a in answers]
    per_token = [a.time_per_token * 1e3 for a in answers if a.output_tokens > 1]
    gaps = [(later - sooner) * 1e3 for a in answers for sooner, later in pairwise(a.arrivals)]
    whole = [(a.ended - a.started) * 1e3 for a in answers]
    result = {
        "output_tokens_per_s": output / duration,
        "total_tokens_per_s": (output + sum(a.prompt_tokens for a in answers)) / duration,
    }
    for name, values in (
        ("ttft", ttft),
        ("time_per_token", per_token),
        ("inter_token", gaps),
        ("end_to_end", whole),
    ):
        for share in (50, 90, 99):
            result[f"{name}_p{share}_ms"] = percentile(values, share / 100)
    result["duration_s"] = duration
    result["cached_prompt_tokens"] = float(sum(a.cached_tokens for a in answers))
    return result


def check_lengths(answers: Sequence[Streamed], input_len: int, output_len: int) -> list[str]:
    """Complaints about answers that did not have the tokens that were asked for."""
    wrong = [
        f"{a.prompt_tokens} prompt and {a.output_tokens} output tokens"
        for a in answers
        if (a.prompt_tokens, a.output_tokens) != (input_len, output_len)
    ]
    if not wrong:
        return []
    complaint = (
        f"{len(wrong)} of {len(answers)} answers are not comparable: asked for {input_len} prompt "
        f"and {output_len} output tokens, the first of them has {wrong[0]}"
    )
    return [complaint]


async def served_model(endpoint: Endpoint) -> str:
    """The first model the server names."""
    status, models = await fetch_json(endpoint, "GET", "/v1/models")
    if status != 200 or not models.get("data"):
        raise RequestError(f"{endpoint.base_url}/v1/models answered {status}: give --model")
    return str(models["data"][0]["id"])


async def encode_remotely(endpoint: Endpoint, model: str, text: str) -> list[int]:
    """Token ids by the server's own tokenizer: Legato's and vLLM's way, else llama-server's."""
    for body in (
        {"model": model, "prompt": text, "add_special_tokens": False},
        {"content": text, "add_special": False},
    ):
        status, answer = await fetch_json(endpoint, "POST", "/tokenize", body)
        if status == 200 and answer.get("tokens"):
            return list(answer["tokens"])
    raise RequestError(f"{endpoint.base_url}/tokenize does not work: give --tokenizer")
