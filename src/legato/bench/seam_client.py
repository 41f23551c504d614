"""Asks a server for answers, and to go on with an answer that was cut."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from legato.bench.http_stream import Endpoint, Exchange, exchange, fetch_json
from legato.errors import RequestError

KINDS = ("legato", "vllm", "llama.cpp")
REPLACEMENT = "\ufffd"


@dataclass
class Reply:
    """A streamed answer. ``pieces``: the text of each event, with ``arrivals`` in seconds after
    the request and ``counts`` of tokens. A server may not tell ids: then they are empty, and a
    count of 1 means one at least."""

    pieces: list[str] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    error: str = ""

    @property
    def text(self) -> str:
        """Without half a character at the end, which a client could not send back."""
        text = "".join(self.pieces)
        return text.rstrip(REPLACEMENT) if self.finish_reason == "length" else text

    @property
    def boundaries(self) -> list[int]:
        """Characters after each piece: where a token ends and its text is whole."""
        return list(accumulate(map(len, self.pieces)))

    @property
    def ttft(self) -> float:
        """Seconds until there was text to read."""
        shown = (at for at, piece in zip(self.arrivals, self.pieces, strict=True) if piece)
        return next(shown, self.arrivals[-1])

    @property
    def step(self) -> float:
        """Seconds from one token to the next, on average over the answer; NaN of a single one."""
        if len(self.arrivals) < 2:
            return math.nan
        return (self.arrivals[-1] - self.arrivals[0]) / sum(self.counts[1:])

    @property
    def recomputed(self) -> int | None:
        """Prompt tokens that were not in the cache; None if the server does not say."""
        return None if self.cached_tokens is None else self.prompt_tokens - self.cached_tokens

    def forget(self, given: str) -> None:
        """Takes the given words off the beginning, if the server repeated them."""
        if not "".join(self.pieces).startswith(given):
            return
        left = len(given)
        for index, piece in enumerate(self.pieces):
            self.pieces[index] = piece[left:]
            left = max(0, left - len(piece))

    def read(self, done: Exchange) -> Reply:
        """Raises RequestError for an error status, an error event or a stream cut short."""
        for arrival, data in done.events():
            if data == b"[DONE]":
                return self
            for line in data.split(b"\n\ndata:"):
                self._add(json.loads(line), arrival - done.started)
        raise RequestError("the stream broke off")

    def _add(self, event: dict[str, Any], arrival: float) -> None:
        if "error" in event:
            raise RequestError(f"the stream broke off: {event['error']}")
        if usage := event.get("usage"):
            self.prompt_tokens = usage["prompt_tokens"]
            self.completion_tokens = usage["completion_tokens"]
            self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        self.prompt_token_ids += event.get("prompt_token_ids") or []
        for choice in event.get("choices", []):
            self.prompt_token_ids += choice.get("prompt_token_ids") or []
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            token_ids = choice.get("token_ids") or []
            if piece or token_ids:
                self.pieces.append(piece)
                self.arrivals.append(arrival)
                self.counts.append(len(token_ids) or 1)
                self.token_ids += token_ids


@dataclass(frozen=True)
class Client:
    """One server, one way of asking. ``kind`` decides how a continuation is asked for."""

    endpoint: Endpoint
    kind: str
    model: str
    in_chat: bool
    temperature: float
    seed: int
    ignore_eos: bool = False

    async def ask(self, question: str, given: str, max_tokens: int, salt: str = "") -> Reply:
        """The answer to ``question`` after its first words, ``given``. An error is in the reply."""
        path = "/v1/chat/completions" if self.in_chat else "/v1/completions"
        body = self._body(question, given, max_tokens, salt)
        try:
            done = await exchange(self.endpoint, self.endpoint.message("POST", path, body))
            reply = Reply().read(done)
        except (RequestError, ValueError) as error:
            return Reply(error=str(error))
        if self.kind == "llama.cpp" and self.in_chat:
            reply.forget(given)
        return reply

    def _body(self, question: str, given: str, max_tokens: int, salt: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.kind != "llama.cpp":
            body["return_token_ids"] = True
        if self.ignore_eos:
            body["ignore_eos"] = True
        if salt:
            body["cache_salt"] = salt
        if not self.in_chat:
            return body | {"prompt": question + given}
        body["messages"] = [{"role": "user", "content": question}]
        if given:
            body["messages"].append({"role": "assistant", "content": given})
            if self.kind == "vllm":
                body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body

    async def canonical(self, question: str, answer: str) -> list[int]:
        """The ids of the answer's text as the tokenizer alone spells it; empty if it is not told."""
        before = [] if self.in_chat else await self._tokenize(question)
        whole = await self._tokenize(answer if self.in_chat else question + answer)
        return whole[len(before) :]

    async def _tokenize(self, text: str) -> list[int]:
        body: dict[str, Any] = {"content": text, "add_special": False}
        if self.kind != "llama.cpp":
            body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        status, answer = await fetch_json(self.endpoint, "POST", "/tokenize", body)
        return list(answer["tokens"]) if status == 200 else []

    async def token_text(self, token: int) -> str:
        body = {"model": self.model, "tokens": [token]}
        status, answer = await fetch_json(self.endpoint, "POST", "/detokenize", body)
        if status != 200:
            return f"<{token}>"
        return str(answer.get("prompt", answer.get("content", "")))
