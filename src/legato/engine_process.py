"""The engine's process: ``python -m legato.engine_process ADDRESS LOADER PARENT``.

The bridge starts it. One loop: take commands, step, send what the step brought in one message. It
sleeps while there is nothing to do, and dies with its parent. A step that fails as a whole ends the
process; the parent starts another one, which goes on with what this one has sent.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module

import msgspec
import zmq

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
    Event,
    Failed,
    Loading,
    ProcessSettings,
    Ready,
    Refused,
    Start,
    Stepped,
)
from legato.persistence import Persistence, persistence_of
from legato.spare_memory import give_back

PR_SET_PDEATHSIG = 1
RESTORE_CHECK = 2  # ms between two parts of restoring, when there is no other work
IDLE_CHECK = 1000  # ms without work after which the pool is checked once


class Wire:
    """The socket to the parent: commands in, events out."""

    def __init__(self, address: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(0)  # a slow reader must not stop the engine
        self._socket.connect(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Command)

    def send(self, event: Event) -> None:
        self._socket.send(self._encoder.encode(event))

    def receive(self) -> Command:
        """Waits for the next command."""
        command: Command = self._decoder.decode(self._socket.recv())
        return command

    def has_command(self, milliseconds: int | None = 0) -> bool:
        """Waits so long (None: for ever) for a command."""
        return bool(self._socket.poll(milliseconds))

    def close(self) -> None:
        """Delivers what was sent."""
        self._socket.close(linger=2000)
        zmq.Context.instance().term()


def die_with(parent: int) -> None:
    """The kernel kills this process when its parent ends, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the engine's parent has ended already")


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


def serve(wire: Wire, engine: Engine, kept: Persistence | None) -> None:
    """Until told to stop."""
    while True:
        if kept is not None and kept.is_restoring:
            kept.advance()
            if not kept.is_restoring:
                wire.send(Stepped([], engine.stats()))  # with the blocks that are back
            if not engine.has_work:
                wire.has_command(RESTORE_CHECK)
        elif not engine.has_work and not wire.has_command(IDLE_CHECK):
            engine.check_integrity()
            rest(wire, kept)
        while wire.has_command():
            command = wire.receive()
            if not obey(wire, engine, command):
                return
        if engine.has_work:
            wire.send(Stepped(engine.step(), engine.stats()))


def rest(wire: Wire, kept: Persistence | None) -> None:
    """Waits for a command, and meanwhile keeps the prefix cache."""
    seconds: float | None = 0.0
    while seconds is not None:
        seconds = None if kept is None else kept.idle(wire.has_command)
        if wire.has_command(None if seconds is None else int(seconds * 1000) + 1):
            return


def obey(wire: Wire, engine: Engine, command: Command) -> bool:
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


def main(address: str, loader: str, parent: str) -> int:
    """Returns the exit code."""
    gc.disable()  # until the model is loaded: nearly all that comes until then stays
    die_with(int(parent))
    faulthandler.enable()  # a crash in a kernel tells on standard error where it happened
    offer_to_the_oom_killer()
    for sent_to_all in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, systemd: the parent decides
        signal.signal(sent_to_all, signal.SIG_IGN)
    wire = Wire(address)
    wire.send(Loading("starting"))
    start = wire.receive()
    assert isinstance(start, Start)
    set_up(start.settings.log_format, start.settings.log_level)
    wire.send(Loading(f"loading {start.config.model}"))
    try:
        engine, kept = load(start.config, loader, start.settings)
    except Exception as error:  # whatever it is, the parent must know
        wire.send(failure(error))
        wire.close()
        return 1
    gc.freeze()  # what was loaded stays: no collection needs to look at it again
    gc.enable()
    give_back()
    wire.send(Ready(engine.info, engine.stats()))
    if kept is not None:
        kept.begin()
    serve(wire, engine, kept)
    if kept is not None:
        kept.write()
    wire.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
