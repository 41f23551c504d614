"""The server that is measured: one that runs, or a ``legato serve`` of the bench's own."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from legato.bench.http_stream import Endpoint
from legato.bench.seam_client import KINDS
from legato.errors import EngineError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """For commands that continue answers."""
    add = parser.add_argument
    add("--base-url", "--url", help="of a server, without /v1; default: a legato serve of its own")
    add("--kind", choices=KINDS, default="legato", help="how a continuation is asked for")
    add("--model", help="name to ask for, or to serve; default: the first of /v1/models, smollm2")
    add("--api-key", help="sent as a bearer token")


@contextmanager
def chosen_server(arguments: argparse.Namespace) -> Iterator[Endpoint]:
    """The one that ``--base-url`` names; or its own, with ``--model``, whose name it will tell then."""
    if arguments.base_url is not None:
        yield Endpoint(arguments.base_url, arguments.api_key)
        return
    with own_server(arguments.model or "smollm2") as url:
        arguments.model = None
        yield Endpoint(url, arguments.api_key)


@contextmanager
def own_server(model: str, *flags: str) -> Iterator[str]:
    """Its URL, once it is ready; it ends with the block. Raises EngineError if it does not start."""
    quietly = ("--port", "0", "--log-level", "warning")  # else each request has its lines
    command = [sys.executable, "-m", "legato.cli", "serve", model, *quietly, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield _url(process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"ready at (\S+)", line):
            return found[1]
    raise EngineError(f"legato serve ended with {process.wait()}")
