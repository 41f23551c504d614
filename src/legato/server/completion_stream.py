"""The chunks of a streamed /v1/completions answer, of one prompt or several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from legato.answer import Answer, Piece
from legato.request import TokenLogprobs
from legato.server.completion_request import CompletionRequest
from legato.server.load import Place
from legato.server.logprobs import TextOffsets, completion_logprobs
from legato.server.service import Service
from legato.server.sse import DONE, encode
from legato.server.usage import usage
from legato.text.tokenizer import Tokenizer

Step = tuple[int, list[Piece]]  # which prompt, and what a step of the engine added to its choices


class CompletionStream:
    def __init__(self, request: CompletionRequest, answers: list[Answer], service: Service) -> None:
        self.request = request
        self.answers = answers
        self.service = service
        head = {
            "id": answers[0].request.id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.model_name,
        }
        self._head = b"data: " + encode(head)[:-1]
        self._tail = b',"usage":null}\n\n' if request.include_usage else b"}\n\n"
        self._detailed = request.logprobs is not None or request.return_token_ids
        self._choices = len(answers[0].choices)
        self._offsets = [
            text_offsets(request, service.text) for _ in range(len(answers) * self._choices)
        ]
        self._opened = [False] * len(answers)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One event for each engine step: the chunks of its choices, written together."""
        async with aclosing(merged(self.answers, self.service)) as steps:
            async for number, pieces in steps:
                parts = [] if self._opened[number] else self._openings(number)
                self._opened[number] = True
                parts += [self._chunk(number, self._seen(piece)) for piece in pieces]
                event = b"".join(parts)
                if event:
                    yield event
        if self.request.include_usage:
            yield self._head + b',"choices":[],"usage":' + self._usage() + b"}\n\n"
        yield DONE

    def _seen(self, piece: Piece) -> Piece:
        """The piece as the client may see it: without its text if only the prompt is scored."""
        if self.request.generates:
            return piece
        return Piece(piece.index, "", [], [], piece.finish_reason and "length")

    def _openings(self, number: int) -> list[bytes]:
        """What stands before the first token of each choice: the echo, the prompt's token ids."""
        request, answer = self.request, self.answers[number]
        if not request.echo and not request.return_token_ids:
            return []
        extra = b""
        if request.return_token_ids:
            extra = b',"token_ids":[],"prompt_token_ids":' + encode(answer.prompt_token_ids)
        text = answer.prompt.text if request.echo else ""
        entries = answer.prompt_logprobs if request.echoes_logprobs else None
        ids, lines = answer.prompt_token_ids, []
        for choice in range(self._choices):
            index = number * self._choices + choice
            places = self._offsets[index].echo(text, ids) if entries is not None else []
            lines.append(self._line(index, text, ids, entries, extra, places))
        return lines

    def _chunk(self, number: int, piece: Piece) -> bytes:
        if not piece.text and piece.finish_reason is None and not self._detailed:
            return b""
        extra = b""
        if piece.finish_reason is not None:
            reason = piece.finish_reason.encode()
            extra = b',"finish_reason":"%s","stop_reason":' % reason + encode(piece.stop_reason)
        if self.request.return_token_ids:
            extra += b',"token_ids":' + encode(piece.token_ids)
        index = number * self._choices + piece.index
        entries: list[TokenLogprobs | None] | None = None
        places = []
        if self.request.logprobs is not None:
            entries = [*(piece.logprobs or [])]
            places = self._offsets[index].push(piece.token_ids, piece.overlap)
        return self._line(index, piece.text, piece.token_ids, entries, extra, places)

    def _line(
        self,
        index: int,
        text: str,
        token_ids: list[int],
        entries: list[TokenLogprobs | None] | None,
        extra: bytes,
        places: list[int],
    ) -> bytes:
        logprobs = b"null"
        if entries is not None:
            top = self.request.logprobs or 0
            logprobs = encode(
                completion_logprobs(token_ids, entries, top, self.service.text, places)
            )
        if b'"finish_reason"' not in extra:
            extra = b',"finish_reason":null' + extra
        start = b',"choices":[{"index":%d,"text":' % index
        return b"".join(
            (self._head, start, encode(text), b',"logprobs":', logprobs, extra, b"}]", self._end())
        )

    def _end(self) -> bytes:
        if not self.request.continuous_usage:
            return self._tail
        return b',"usage":' + self._usage() + b"}\n\n"

    def _usage(self) -> bytes:
        return encode(usage(self.answers, generated=self.request.generates))


def text_offsets(request: CompletionRequest, tokenizer: Tokenizer) -> TextOffsets:
    """For one choice."""
    return TextOffsets(tokenizer, tokenizer.special_ids if request.skip_special_tokens else ())


async def merged(answers: list[Answer], service: Service) -> AsyncGenerator[Step, None]:
    """The steps of all answers as they come; an error of one ends all."""
    if len(answers) == 1:
        async with aclosing(service.pieces(answers[0])) as steps:
            async for pieces in steps:
                yield 0, pieces
        return
    queue: asyncio.Queue[Step | Exception | None] = asyncio.Queue()

    async def follow(number: int, answer: Answer, place: Place) -> None:
        try:
            async with aclosing(service.pieces(answer, place)) as steps:
                async for pieces in steps:
                    queue.put_nowait((number, pieces))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    with ExitStack() as places:
        admitted = [places.enter_context(place) for place in service.admit(answers)]
        tasks = [
            asyncio.create_task(follow(number, answer, place))
            for number, (answer, place) in enumerate(zip(answers, admitted, strict=True))
        ]
        try:
            open_answers = len(tasks)
            while open_answers:
                step = await queue.get()
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    open_answers -= 1
                else:
                    yield step
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
