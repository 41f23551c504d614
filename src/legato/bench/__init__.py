"""``legato bench latency|throughput|serve``: time to first token, time per token, tokens/s, memory.
``legato bench overhead``: what a step costs beside its native call.
``legato bench speculation``: what guessing ahead brings.
``legato bench chat``: how soon a long chat goes on.
``legato bench stall``: what decoding streams feel of a long prompt.
``legato bench grammar``: what structured output costs.
``legato bench seam``: whether a continued answer is the uninterrupted one.

Every command prints a table and, with ``--json FILE``, writes all rounds and their medians.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from legato.errors import LegatoError

COMMANDS = {
    "latency": "one stream in this process: TTFT, time per token, memory",
    "throughput": "many prompts at once in this process: tokens per second",
    "serve": "many streams over HTTP against any OpenAI-compatible server",
    "overhead": "what a decode step costs beside its native call, by batch size",
    "speculation": "what guessing ahead brings, and what it costs where it cannot help",
    "chat": "a long chat that comes back as text: how soon it goes on, by its length",
    "stall": "what decoding streams feel of a long prompt that enters",
    "grammar": "many sequences under a JSON schema, beside the same without one",
    "seam": "answers cut at every character and continued: how many go on exactly",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit code is 0, or 1 if a run failed or an answer was too short."""
    parser = argparse.ArgumentParser(prog="legato bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help in COMMANDS.items():
        module = importlib.import_module(f"legato.bench.{name}")
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except LegatoError as error:
        print(f"legato bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
