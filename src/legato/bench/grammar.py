"""``legato bench grammar``: what a JSON schema costs, beside the same answers without one.

The answers are sampled, so that each sequence goes its own way; rounds with and without the schema
take turns.
"""

from __future__ import annotations

import argparse
import json

from legato.bench import in_process
from legato.bench.in_process import EngineHere
from legato.bench.positive import positive_int
from legato.bench.report import publish
from legato.bench.rounds import Round
from legato.text.grammar import json_schema

QUESTION = "A list of people, as JSON with name, age, tags and kind:\n"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 4, "maxLength": 40},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["friend", "colleague", "stranger"]},
    },
    "required": ["name", "age", "tags", "kind"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 1000}  # so that no answer ends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-prompts", type=positive_int, default=16, help="sequences of the batch"
    )
    parser.add_argument("--temperature", type=float, default=0.7, help="of the sampling")
    in_process.add_arguments(parser)
    parser.set_defaults(output_len=96, rounds=5)


def run(arguments: argparse.Namespace) -> int:
    engine = EngineHere(arguments)
    engine.describe()
    grammar = json_schema(json.dumps(SCHEMA), "schema")
    step_ms(engine, arguments, grammar)  # the grammar is compiled, and what it shares is warm
    rounds = [measure(engine, arguments, grammar) for _ in range(arguments.rounds)]
    title = (
        f"{engine.info.name}: {arguments.num_prompts} sequences under a JSON schema and free, "
        f"temperature {arguments.temperature:g}"
    )
    settings = {k: v for k, v in vars(arguments).items() if k not in ("run", "json")}
    publish(title, "grammar", settings, rounds, arguments.json)
    return 0


def measure(engine: EngineHere, arguments: argparse.Namespace, grammar: str) -> Round:
    free = step_ms(engine, arguments, "")
    ruled = step_ms(engine, arguments, grammar)
    return {
        "free_step_ms": free,
        "step_under_the_schema_ms": ruled,
        "added_percent": 100 * (ruled / free - 1),
        "added_for_each_token_ms": (ruled - free) / arguments.num_prompts,
    }


def step_ms(engine: EngineHere, arguments: argparse.Namespace, grammar: str) -> float:
    """A decode step of the whole batch."""
    prompts = [engine.encode(QUESTION)] * arguments.num_prompts
    timed = engine.run(
        prompts, arguments.output_len, grammar=grammar, temperature=arguments.temperature
    )
    first = max(times[0] for times in timed.token_times.values())
    steps: int = arguments.output_len - 1
    return 1000 * (timed.duration - first) / steps
