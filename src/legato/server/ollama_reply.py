"""What /api/chat and /api/generate send back: records, one a line when streamed, and errors."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from legato.answer import Answer, Piece
from legato.request import TokenLogprobs
from legato.server.dialect import Dialect
from legato.server.errors import describe
from legato.server.logprobs import chat_logprobs
from legato.server.service import Service
from legato.server.sse import encode
from legato.text.reasoning_split import Parted

Say = Callable[[Parted], dict[str, Any]]
NOTHING = Parted("", "")


def _describe(error: Exception) -> tuple[int, dict[str, Any]]:
    status, body = describe(error)
    return status, {"error": body["error"]["message"]}


OLLAMA = Dialect(_describe, lambda body: encode(body) + b"\n", "application/x-ndjson")


def in_chat(said: Parted) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": said.content, **_thinking(said)}}


def in_generate(said: Parted) -> dict[str, Any]:
    return {"response": said.content, **_thinking(said)}


def _thinking(said: Parted) -> dict[str, str]:
    return {"thinking": said.reasoning} if said.reasoning else {}


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def loaded(service: Service, say: Say, reason: str) -> dict[str, Any]:
    """The answer to a request without a prompt, by which clients load a model, or let it go."""
    ending = {"done": True, "done_reason": reason}
    return {"model": service.model_name, "created_at": now(), **say(NOTHING), **ending}


class Reply:
    """One answer. Durations count from when the request was read, in nanoseconds."""

    def __init__(self, answer: Answer, service: Service, say: Say, echoed: Parted) -> None:
        self.answer = answer
        self.service = service
        self.say = say
        self.echoed = echoed
        self._started = time.perf_counter_ns()
        self._first: int | None = None  # when the first token came

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self._steps()) as steps:
            async for _ in steps:
                pass
        choice = self.answer.choices[0]
        said = Parted(
            self.echoed.reasoning + choice.reasoning, self.echoed.content + choice.content
        )
        return self._last(said, choice.logprobs)

    async def records(self) -> AsyncGenerator[bytes, None]:
        """A line for each step of the engine that brought text, and one that says how it ended."""
        echoed = self.echoed
        async with aclosing(self._steps()) as steps:
            async for pieces in steps:
                said = Parted(
                    echoed.reasoning + "".join(piece.reasoning for piece in pieces),
                    echoed.content + "".join(piece.content for piece in pieces),
                )
                echoed = NOTHING
                entries = [entry for piece in pieces for entry in piece.logprobs or ()]
                if any(said) or entries:
                    yield encode(self._record(said, entries, done=False)) + b"\n"
        yield encode(self._last(NOTHING, [])) + b"\n"

    async def _steps(self) -> AsyncGenerator[list[Piece], None]:
        async with aclosing(self.service.pieces(self.answer)) as steps:
            async for pieces in steps:
                self._first = self._first or time.perf_counter_ns()
                yield pieces

    def _record(self, said: Parted, entries: list[TokenLogprobs], *, done: bool) -> dict[str, Any]:
        record = {"model": self.service.model_name, "created_at": now(), **self.say(said)}
        top = self.answer.request.params.logprobs
        if top is not None and entries:
            record["logprobs"] = chat_logprobs(entries, top, self.service.text)["content"]
        return {**record, "done": done}

    def _last(self, said: Parted, entries: list[TokenLogprobs]) -> dict[str, Any]:
        ended = time.perf_counter_ns()
        first = self._first or ended
        return {
            **self._record(said, entries, done=True),
            "done_reason": self.answer.choices[0].finish_reason,
            "total_duration": ended - self._started,
            "load_duration": 0,
            "prompt_eval_count": len(self.answer.prompt_token_ids),
            "prompt_eval_duration": first - self._started,
            "eval_count": self.answer.completion_tokens,
            "eval_duration": ended - first,
        }
