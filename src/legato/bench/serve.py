"""``legato bench serve``: many streams over HTTP, against Legato, llama-server, vLLM or alike."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import uvloop

from legato.bench.http_stream import Endpoint
from legato.bench.load import (
    Load,
    Streamed,
    check_lengths,
    encode_remotely,
    run_load,
    served_model,
    summary,
)
from legato.bench.positive import positive_float, positive_int
from legato.bench.prompts import Encode, make_prompts
from legato.bench.report import publish
from legato.bench.rounds import Round
from legato.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000", help="of the server, without /v1")
    add("--model", help="name to ask for; default: the first of /v1/models")
    add("--api-key", help="sent as a bearer token")
    add("--tokenizer", help="GGUF file or folder that makes the prompts; default: /tokenize")
    add("--num-prompts", type=positive_int, default=64, help="requests of a round")
    add(
        "--concurrency",
        type=positive_int,
        help="most requests at once; default: 32, no limit with a rate",
    )
    add("--request-rate", type=positive_float, help="requests a second, at random intervals")
    add("--input-len", type=positive_int, default=256, help="tokens of each prompt")
    add("--output-len", type=positive_int, default=128, help="tokens of each answer")
    add(
        "--shared-prefix", type=int, default=0, help="tokens that all prompts of a round begin with"
    )
    add("--rounds", type=positive_int, default=1, help="repetitions; medians are reported")
    add("--seed", type=int, default=0, help="of the prompts and the arrivals")
    add("--json", metavar="FILE", help="write all rounds and their medians here")


def run(arguments: argparse.Namespace) -> int:
    return uvloop.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    endpoint = Endpoint(arguments.base_url, arguments.api_key)
    model = arguments.model or await served_model(endpoint)
    rounds: list[Round] = []
    complaints: list[str] = []
    for index in range(arguments.rounds):
        seed = arguments.seed * 1000 + index
        prompts = await prompts_for(endpoint, model, arguments, seed)
        load = Load(
            model=model,
            output_len=arguments.output_len,
            concurrency=_concurrency(arguments),
            request_rate=arguments.request_rate,
            seed=seed,
        )
        figures, found = await measure(endpoint, load, prompts)
        rounds.append(figures)
        complaints += found
    title = (
        f"{model} at {arguments.base_url}: {arguments.num_prompts} requests, "
        f"{arguments.input_len} in / {arguments.output_len} out"
    )
    publish(title, "serve", _settings(arguments, model), rounds, arguments.json)
    for complaint in complaints:
        print(f"legato bench: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


async def measure(
    endpoint: Endpoint, load: Load, prompts: list[list[int]]
) -> tuple[Round, list[str]]:
    """One round's figures, and complaints about answers of a wrong length."""
    answers = [Streamed.read(done) for done in await run_load(endpoint, load, prompts)]
    return summary(answers), check_lengths(answers, len(prompts[0]), load.output_len)


async def prompts_for(
    endpoint: Endpoint, model: str, arguments: argparse.Namespace, seed: int
) -> list[list[int]]:
    """This round's prompts, by the tokenizer that was named, or by the server's."""
    texts: dict[str, list[int]] = {}

    def make(encode: Encode) -> list[list[int]]:
        return make_prompts(
            encode,
            count=arguments.num_prompts,
            length=arguments.input_len,
            shared_prefix=arguments.shared_prefix,
            seed=seed,
        )

    if arguments.tokenizer:
        return make(local_encode(arguments.tokenizer))
    # make_prompts is not async: the first pass collects the texts, the second looks them up.
    make(lambda text: texts.setdefault(text, [0] * arguments.input_len))
    for text in texts:
        texts[text] = await encode_remotely(endpoint, model, text)
    return make(texts.__getitem__)


def local_encode(path: str) -> Encode:
    """Raises RequestError if there is no such file."""
    from legato.text.tokenizer import load_tokenizer  # the HTTP client alone does not need it

    if not Path(path).exists():
        raise RequestError(f"--tokenizer {path}: there is no such file or folder", "tokenizer")
    tokenizer = load_tokenizer(Path(path))
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def _concurrency(arguments: argparse.Namespace) -> int:
    if arguments.concurrency is not None:
        return int(arguments.concurrency)
    return 32 if arguments.request_rate is None else int(arguments.num_prompts)


def _settings(arguments: argparse.Namespace, model: str) -> dict[str, object]:
    kept = {k: v for k, v in vars(arguments).items() if k not in ("run", "json", "api_key")}
    return kept | {"model": model}
