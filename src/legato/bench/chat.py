"""``legato bench chat``: how soon a long chat goes on that comes back as text, by its length."""

from __future__ import annotations

import argparse
import asyncio
import random
from statistics import median

from legato.bench import own_server
from legato.bench.http_stream import Endpoint
from legato.bench.load import served_model
from legato.bench.positive import positive_int, positive_ints
from legato.bench.prompts import WORDS
from legato.bench.report import publish
from legato.bench.rounds import Round
from legato.bench.seam_client import Client, Reply
from legato.errors import RequestError

TIMES = 3  # that each chat goes on; the median counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    own_server.add_arguments(parser)
    add = parser.add_argument
    add(
        "--lengths",
        type=positive_ints,
        default="1000,4000",
        help="words of the question, each a token or two",
    )
    add("--output-len", type=positive_int, default=16, help="tokens of each answer")
    add("--rounds", type=positive_int, default=5, help="repetitions; medians are reported")
    add("--seed", type=int, default=0, help="of the words")
    add("--json", metavar="FILE", help="write all rounds and their medians here")


def run(arguments: argparse.Namespace) -> int:
    with own_server.chosen_server(arguments) as endpoint:
        model, rounds = asyncio.run(_run(arguments, endpoint))
    title = f"{model}: a chat and its answer of {arguments.output_len} tokens go on"
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json", "api_key")}
    publish(title, "chat", settings, rounds, arguments.json)
    return 0


async def _run(arguments: argparse.Namespace, endpoint: Endpoint) -> tuple[str, list[Round]]:
    model = arguments.model or await served_model(endpoint)
    client = Client(
        endpoint, arguments.kind, model, in_chat=True, temperature=0.0, seed=0, ignore_eos=True
    )
    await _continued(client, "A few words", 4)  # a server's first continuation is a slow one
    words = random.Random(f"legato bench chat {arguments.seed}")
    rounds: list[Round] = []
    for _ in range(arguments.rounds):
        figures: Round = {}
        for length in arguments.lengths:
            question = " ".join(words.choices(WORDS, k=length))
            replies = await _continued(client, question, arguments.output_len)
            figures[f"prompt_of_{length}_words_tokens"] = median(r.prompt_tokens for r in replies)
            figures[f"ttft_behind_{length}_words_ms"] = median(r.ttft for r in replies) * 1e3
            figures[f"step_behind_{length}_words_ms"] = median(r.step for r in replies) * 1e3
        rounds.append(figures)
    return model, rounds


async def _continued(client: Client, question: str, output_len: int) -> list[Reply]:
    """Goes on with the answer to a question that nobody asked before. Raises RequestError."""
    answer = _checked(await client.ask(question, "", output_len))
    return [_checked(await client.ask(question, answer.text, output_len)) for _ in range(TIMES)]


def _checked(reply: Reply) -> Reply:
    if reply.error or not reply.text:
        raise RequestError(f"a chat does not go on: {reply.error or 'there is no text'}")
    return reply
