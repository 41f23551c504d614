"""A request between its client and an engine: how far it has come, and what waits to be read."""

from __future__ import annotations

import asyncio

import msgspec

from legato.errors import LegatoError
from legato.request import FinishReason, Output, Progress, Request

MANY_UNREAD = 64
"""Outputs from which a client counts as slow: further ones are joined to the last of their choice."""


class OpenRequest:
    """``progress``: of each choice that is not finished, what has arrived of it.

    Nothing here waits for the client: what it does not read is kept, at most the whole answer.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.strikes = 0  # engines in a row that ended before it came any further
        self.is_sent = False  # an engine has it
        self.has_moved = True  # it has brought something since it was sent
        self.progress = {i: Progress(index=i) for i in range(request.params.n)}
        self._cancelled: set[int] = set()
        self._unread: list[Output] = []
        self._error: LegatoError | None = None
        self._reader: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Some choice is not finished."""
        return bool(self.progress)

    def sent(self) -> Request:
        """It goes to an engine now: the request that continues it there."""
        self.is_sent = True
        self.has_moved = False
        if len(self.progress) == self.request.params.n and not any(
            one.token_ids for one in self.progress.values()
        ):
            return self.request
        return msgspec.structs.replace(self.request, progress=[*self.progress.values()])

    def lost(self) -> None:
        """Its engine has ended. Choices that were being cancelled have ended with it."""
        self.strikes = 1 if self.has_moved else self.strikes + 1
        self.is_sent = False
        self._abort(self._cancelled & set(self.progress))

    def cancel(self, index: int | None) -> bool:
        """Returns whether an engine must be told."""
        chosen = {i for i in self.progress if index in (None, i)}
        if self.is_sent:
            self._cancelled |= chosen
        else:
            self._abort(chosen)
        return self.is_sent

    def _abort(self, choices: set[int]) -> None:
        self.put(
            [
                Output(request_id=self.request.id, index=i, finish_reason=FinishReason.ABORT)
                for i in sorted(choices)
            ]
        )

    def put(self, outputs: list[Output]) -> None:
        """What a step brought. What comes for a choice that has ended is dropped."""
        for output in outputs:
            progress = self.progress.get(output.index)
            if progress is None:
                continue
            progress.token_ids += output.token_ids
            progress.is_announced = progress.is_announced or output.cached_tokens is not None
            self.has_moved = True
            if output.finish_reason is not None:
                del self.progress[output.index]
            self._keep(output)
        self._wake()

    def fail(self, error: LegatoError) -> None:
        """Ends the request; what has arrived is read first."""
        self.progress.clear()
        self.has_moved = True
        self._error = error
        self._wake()

    def _keep(self, output: Output) -> None:
        if len(self._unread) >= MANY_UNREAD:
            for last in reversed(self._unread):
                if last.index == output.index:
                    join(last, output)
                    return
        self._unread.append(output)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def get(self) -> list[Output]:
        """What arrived since the last call, waiting for it; empty when all has been read.

        Raises what ended the request.
        """
        while not self._unread:
            if self._error is not None:
                raise self._error
            if not self.progress:
                break
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        unread, self._unread = self._unread, []
        return unread


def join(first: Output, second: Output) -> None:
    """``first`` becomes both: a step may bring several tokens of a choice anyway."""
    first.token_ids += second.token_ids
    if second.logprobs is not None:
        first.logprobs = (first.logprobs or []) + second.logprobs
    if first.cached_tokens is None:
        first.cached_tokens = second.cached_tokens
    first.prompt_logprobs = first.prompt_logprobs or second.prompt_logprobs
    first.finish_reason = second.finish_reason
    first.stop_token_id = second.stop_token_id
    first.error = second.error
    first.error_field = second.error_field
