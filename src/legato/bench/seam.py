"""``legato bench seam``: is a continuation the rest of the answer, wherever the answer was cut?"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass, field
from itertools import count

from legato.bench import own_server
from legato.bench.http_stream import Endpoint
from legato.bench.load import served_model
from legato.bench.positive import positive_int
from legato.bench.seam_client import Client
from legato.bench.seam_cuts import Answer, Cut, Miss, Tokens, common
from legato.bench.seam_questions import BEGINNINGS, QUESTIONS
from legato.bench.seam_report import Resumed, publish
from legato.errors import RequestError

ENDPOINTS = ("chat", "completions")
FEW = 6  # tokens that show most differences
TIMES = 3  # that a continuation is asked for to be timed; the median counts
NEAR = 3  # tokens that a miss is shown with, on either side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    own_server.add_arguments(parser)
    add = parser.add_argument
    add("--endpoint", choices=ENDPOINTS, default="chat", help="questions, or beginnings of texts")
    add("--questions", type=positive_int, default=20, help="how many of the 20")
    add("--output-len", type=positive_int, default=48, help="tokens of each answer")
    add("--every", type=positive_int, default=1, help="cut at every so many characters")
    add(
        "--cold", action="store_true", help="no cache, no memory of the answer: a salt for each cut"
    )
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    add("--seed", type=int, default=0, help="of every request")
    add(
        "--concurrency",
        type=positive_int,
        help="continuations at once; default: 8, or 1 for a peer, whose answers depend on the load",
    )
    add("--misses", type=int, default=20, help="most misses to print; --json has all of them")
    add("--json", metavar="FILE", help="write the figures and all misses here")


def run(arguments: argparse.Namespace) -> int:
    with own_server.chosen_server(arguments) as endpoint:
        measured = asyncio.run(_run(arguments, endpoint))
    return 0 if measured else 1


@dataclass
class Seam:
    """One measurement while it runs."""

    client: Client
    concurrency: int
    cold: bool
    cuts: list[Cut] = field(default_factory=list)
    resumed: Resumed = field(default_factory=Resumed)
    _salts: count[int] = field(default_factory=count)
    _texts: dict[int, str] = field(default_factory=dict)  # of tokens

    async def answer(self, number: int, question: str, output_len: int) -> Answer:
        """Uninterrupted, with nothing else running. Raises RequestError if there is none."""
        reply = await self.client.ask(question, "", output_len)
        if reply.error or not reply.text:
            raise RequestError(f"no answer to {question!r}: {reply.error or 'it is empty'}")
        canonical = await self.client.canonical(question, reply.text)
        return Answer(number, question, reply, canonical)

    async def time(self, answer: Answer) -> None:
        """Continues an answer just given: after its last word, within it, within a word."""
        self.resumed.steps.append(answer.reply.step)
        end = len(answer.text)
        middle = min(answer.reply.boundaries, key=lambda place: abs(place - end // 2))
        for place in sorted({min(middle, end), min(middle + 1, end), end} - {0}):
            given = answer.text[:place]
            replies = [await self.client.ask(answer.question, given, 4) for _ in range(TIMES)]
            self.resumed.add([reply for reply in replies if not reply.error and reply.arrivals])

    async def cut(self, answer: Answer, every: int) -> None:
        """All its cuts, ``concurrency`` at a time."""
        places = asyncio.Semaphore(self.concurrency)

        async def one(place: int) -> Cut:
            salt = f"seam {id(self)} {next(self._salts)}" if self.cold else ""
            async with places:
                for room in self._rooms(answer.room(place)):
                    given = answer.text[:place]
                    reply = await self.client.ask(answer.question, given, room, salt)
                    cut = Cut(answer, place, reply)
                    if cut.settled:
                        break
                return cut

        self.cuts += await asyncio.gather(*(one(place) for place in answer.places(every)))

    def _rooms(self, room: int) -> list[int]:
        """How many tokens are asked for. A peer's greedy answers mostly differ at once: a few tokens
        show that, and spare it the rest."""
        few = self.client.kind != "legato" and not self.client.temperature
        return [FEW, room] if few and FEW < room else [room]

    async def misses(self) -> list[Miss]:
        return [await self._miss(cut) for cut in self.cuts if not cut.exact]

    async def _miss(self, cut: Cut) -> Miss:
        miss, own, new = Miss.of(cut), cut.answer.reply.token_ids, cut.reply.token_ids
        before = cut.answer.tokens_before(cut.place)
        until = common(own[before:], new) + NEAR
        miss.answer_tokens = await self._shown(own[max(0, before - NEAR) : before + until])
        miss.given_tokens = await self._shown(cut.given_ids[-NEAR:])
        miss.reply_tokens = await self._shown(new[:until])
        return miss

    async def _shown(self, ids: list[int]) -> Tokens:
        for token in ids:
            if token not in self._texts:
                self._texts[token] = await self.client.token_text(token)
        return [(token, self._texts[token]) for token in ids]


async def _run(arguments: argparse.Namespace, endpoint: Endpoint) -> bool:
    """False if there was nothing to measure."""
    seam = await _seam(arguments, endpoint)
    texts = QUESTIONS if seam.client.in_chat else BEGINNINGS
    await seam.client.ask(texts[-1], "A wor", 4)  # a server's first continuation is a slow one
    for number, question in enumerate(texts[: arguments.questions]):
        answer = await seam.answer(number, question, arguments.output_len)
        if not arguments.cold:
            await seam.time(answer)
        await seam.cut(answer, arguments.every)
        _progress(f"{number + 1} of {arguments.questions} answers cut, {len(seam.cuts)} cuts")
    _progress("")
    publish(arguments, seam.client.model, seam.cuts, await seam.misses(), seam.resumed)
    return bool(seam.cuts)


async def _seam(arguments: argparse.Namespace, endpoint: Endpoint) -> Seam:
    client = Client(
        endpoint=endpoint,
        kind=arguments.kind,
        model=arguments.model or await served_model(endpoint),
        in_chat=arguments.endpoint == "chat",
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    usual = 8 if arguments.kind == "legato" else 1
    return Seam(client, arguments.concurrency or usual, arguments.cold)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
