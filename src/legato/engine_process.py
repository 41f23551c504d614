"""The engine's process: ``python -m legato.engine_process SOCKET LOADER PARENT``.

The bridge starts it and leaves it one end of a pair of sockets, by its descriptor. One loop: take
commands, step, send what the step brought in one message. It sleeps while there is nothing to do, and
dies with its parent. A step that fails as a whole ends the
process; the parent starts another one, which goes on with what this one has sent.
"""

from __future__ import annotations

import faulthandler
import gc
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module

from legato.config import EngineConfig
from legato.constraint.tokens import TokenTable
from legato.engine import Engine
from legato.errors import EngineError, LegatoError, RequestError
from legato.log_format import set_up
from legato.messages import (
    Add,
    Cancel,
    Check,
    Checked,
    Command,
    Describe,
    Failed,
    Loading,
    ProcessSettings,
    Rank,
    Ready,
    Refused,
    Start,
    Stepped,
)
from legato.parent import die_with
from legato.persistence import Persistence, persistence_of
from legato.spare_memory import give_back
from legato.wire import Wire

Commands = Wire[Command]

RESTORE_CHECK = 2  # ms between two parts of restoring, when there is no other work
LAST_WORDS = 2.0  # seconds for the parent to take what was sent last
IDLE_CHECK = 1000  # ms without work after which the pool is checked once


def offer_to_the_oom_killer() -> None:
    """When memory runs out, the kernel shall take this process, which can be replaced, before the
    parent, which knows all requests."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("500")


def load(
    config: EngineConfig, loader: str, settings: ProcessSettings
) -> tuple[Engine, Persistence | None]:
    """``loader``: module:function that makes a LoadedModel of an EngineConfig."""
    module, function = loader.split(":")
    loaded = getattr(import_module(module), function)(config)
    engine = Engine(loaded.program, loaded.info, config, draft=loaded.draft)
    if settings.cache_dir is None:
        return engine, None
    return engine, persistence_of(
        loaded, engine.kv_cache, settings.cache_dir, settings.cache_dir_size
    )


def serve(wire: Commands, engine: Engine, kept: Persistence | None) -> None:
    """Until told to stop."""
    while True:
        if kept is not None and kept.is_restoring:
            kept.advance()
            if not kept.is_restoring:
                wire.send(Stepped([], engine.stats()))  # with the blocks that are back
            if not engine.has_work:
                wire.has_message(RESTORE_CHECK)
        elif not engine.has_work and not wire.has_message(IDLE_CHECK):
            engine.check_integrity()
            rest(wire, kept)
        while wire.has_message():
            command = wire.receive()
            if not obey(wire, engine, command):
                return
        if engine.has_work:
            wire.send(Stepped(engine.step(), engine.stats()))


def rest(wire: Commands, kept: Persistence | None) -> None:
    """Waits for a command, and meanwhile keeps the prefix cache."""
    seconds: float | None = 0.0
    while seconds is not None:
        seconds = None if kept is None else kept.idle(wire.has_message)
        if wire.has_message(None if seconds is None else int(seconds * 1000) + 1):
            return


def obey(wire: Commands, engine: Engine, command: Command) -> bool:
    """False: it was the last command."""
    match command:
        case Add(request):
            try:
                engine.add(request)
            except (RequestError, EngineError) as error:
                field = getattr(error, "field", None)
                wire.send(Refused(request.id, type(error).__name__, str(error), field))
        case Describe(spellings):
            table = TokenTable(spellings)
            table.sort()  # now, rather than in a step
            engine.describe(table)
        case Cancel(request_id, index):
            wire.send(Stepped(engine.cancel(request_id, index), engine.stats()))
        case Rank(request_id, priority):
            engine.rank(request_id, priority)
        case Check(clear):
            wire.send(Checked(check(engine, clear), engine.stats()))
        case _:
            return False
    return True


def check(engine: Engine, clear: bool) -> str | None:
    if clear:
        engine.clear_cache()
    try:
        engine.check_integrity()
    except EngineError as error:
        return str(error)
    return None


def failure(error: Exception) -> Failed:
    """What the parent raises instead of ``error``."""
    if isinstance(error, LegatoError):
        return Failed(type(error).__name__, str(error), getattr(error, "field", None))
    traceback.print_exception(error)
    return Failed("EngineError", f"loading failed: {type(error).__name__}: {error}")


def main(descriptor: str, loader: str, parent: str) -> int:
    """Returns the exit code."""
    gc.disable()  # until the model is loaded: nearly all that comes until then stays
    die_with(int(parent))
    faulthandler.enable()  # a crash in a kernel tells on standard error where it happened
    offer_to_the_oom_killer()
    for sent_to_all in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, systemd: the parent decides
        signal.signal(sent_to_all, signal.SIG_IGN)
    wire = Commands(socket.socket(fileno=int(descriptor)), Command)
    wire.send(Loading("starting"))
    start = wire.receive()
    assert isinstance(start, Start)
    set_up(start.settings.log_format, start.settings.log_level)
    wire.send(Loading(f"loading {start.config.model}"))
    try:
        engine, kept = load(start.config, loader, start.settings)
    except Exception as error:  # whatever it is, the parent must know
        wire.send(failure(error))
        wire.close(LAST_WORDS)
        return 1
    gc.freeze()  # what was loaded stays: no collection needs to look at it again
    gc.enable()
    give_back()
    wire.send(Ready(engine.info, engine.stats()))
    if kept is not None:
        kept.begin()
    with suppress(ConnectionError):  # the parent is dying, and this process with it
        serve(wire, engine, kept)
    if kept is not None:
        kept.write()
    wire.close(LAST_WORDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
