"""``legato top``: how a running server is, read from its /metrics, once or again and again."""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.live import Live

from legato.errors import ConfigError
from legato.top.readings import Reading, read
from legato.top.screen import frame


def run(arguments: argparse.Namespace) -> None:
    """Until ctrl-C. Raises ConfigError if the server does not answer (at first, or with --once)."""
    if not 0.05 <= arguments.interval <= 3600:
        raise ConfigError("interval must be 0.05 to 3600 seconds", "interval")
    console = Console()
    before = read(arguments.url)
    if arguments.once:
        time.sleep(arguments.interval)
        console.print(frame(before, read(arguments.url)))
        return
    with Live(frame(before, before), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(arguments.interval)
            now = read_or_miss(arguments.url, before)
            live.update(frame(before, now), refresh=True)
            before = now


def read_or_miss(url: str, last: Reading) -> Reading:
    """The last reading again, with the problem, while the server does not answer."""
    try:
        return read(url)
    except ConfigError as error:
        return Reading(url, last.moment, last.samples, problem=str(error))
