"""``legato serve``: take the port, load the model behind it, and answer until told to stop.

The order is the time to the first token: the engine's process has been started already, and loads the
weights while this one imports what HTTP needs, the tokenizer and the chat template.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import shlex
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from legato.config import EngineConfig, ServerConfig
from legato.errors import ConfigError
from legato.gguf_file import read_metadata
from legato.messages import ProcessSettings
from legato.server.bridge import EngineClient
from legato.server.in_daemon import in_daemon
from legato.server.spawning import Spawned
from legato.spare_memory import give_back, keep_no_large_blocks
from legato.weights import hub
from legato.weights.files import ModelFiles

if TYPE_CHECKING:
    import uvicorn

    from legato.models.info import ModelInfo
    from legato.server.service import Service
    from legato.server.tracing import Tracing
    from legato.text.template import ChatTemplate
    from legato.text.tokenizer import Tokenizer

LOG = logging.getLogger(__name__)
Say = Callable[[str], None]
QUIET = 0.2  # seconds between looks whether somebody is served


def serve(engine_config: EngineConfig, config: ServerConfig, first: Spawned, say: Say) -> None:
    """Runs until SIGINT or SIGTERM, with ``first`` as the first engine. Raises LegatoError if the port or
    the model is unusable."""
    listener = listen(config.host, config.port)
    keep_no_large_blocks()
    gc.disable()  # until the model is loaded: nearly all that comes until then stays
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(engine_config, config, first, listener, say))


async def _serve(
    engine_config: EngineConfig,
    config: ServerConfig,
    first: Spawned,
    listener: socket.socket,
    say: Say,
) -> None:
    settings = ProcessSettings(
        log_format=config.log_format,
        log_level=config.log_level,
        cache_dir=config.cache_dir if engine_config.enable_prefix_caching else None,
        cache_dir_size=config.cache_dir_size,
    )
    engine = EngineClient(
        engine_config, first=first, step_timeout=config.step_timeout, settings=settings
    )
    building = asyncio.create_task(asyncio.to_thread(_build, engine, engine_config, config))
    loading = asyncio.create_task(_load(building, engine, engine_config, listener, say))
    try:
        service, server = await building
        loading.add_done_callback(lambda task: _stop_on_failure(task, server))
        if not loading.done():
            await _until_stopped(server, listener, config.stall_timeout)
    finally:
        loading.cancel()
        await asyncio.wait((loading,))
        await engine.stop()
    if service.tracing is not None:
        await asyncio.to_thread(service.tracing.close)
    if not loading.cancelled():
        loading.result()  # raises what made loading fail


async def _until_stopped(
    server: uvicorn.Server, listener: socket.socket, stall_timeout: float
) -> None:
    from legato.server.stalls import let_go_of_stalled

    if not stall_timeout:
        await server.serve(sockets=[listener])
        return
    watching = asyncio.create_task(
        let_go_of_stalled(server.server_state.connections, stall_timeout)
    )
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()


def _build(
    engine: EngineClient, engine_config: EngineConfig, config: ServerConfig
) -> tuple[Service, uvicorn.Server]:
    """The service and the HTTP server around it, whose modules take a while to import."""
    import uvicorn

    from legato.sampling_params import SeedSource
    from legato.server.app import build_app
    from legato.server.connection import connections
    from legato.server.drain import DrainingServer
    from legato.server.kept_streams import KeptStreams
    from legato.server.load import Load
    from legato.server.service import Service

    service = Service(
        engine=engine,
        config=config,
        seeds=SeedSource(engine_config.seed),
        load=Load(
            running=engine_config.max_num_seqs,
            queue=config.max_queue,
            per_client=config.max_requests_per_client,
            per_minute=config.requests_per_minute,
        ),
        streams=KeptStreams(config.max_kept_streams),
        model_name=config.served_model_name or engine_config.model,
        tracing=_tracing(config),
    )
    uvicorn_config = uvicorn.Config(
        build_app(service),
        http=connections(config.receive_timeout),
        ws="none",
        log_config=None,  # what it logs goes where ours does
        log_level="debug" if config.log_level == "debug" else "warning",
        access_log=False,  # server/calls.py has one
        lifespan="off",
    )
    return service, DrainingServer(uvicorn_config, service, config.drain_timeout)


def _tracing(config: ServerConfig) -> Tracing | None:
    endpoint = config.resolved_otlp_traces_endpoint
    if not endpoint:
        return None
    from legato.server.tracing import Tracing

    try:
        return Tracing(endpoint)
    except ConfigError as error:
        if config.otlp_traces_endpoint:
            raise
        LOG.warning("%s (an endpoint is set in the environment)", error)
        return None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is taken: choose another one with --port", "port"
            ) from None
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", "host") from None


def _stop_on_failure(loading: asyncio.Task[None], server: uvicorn.Server) -> None:
    server.should_exit = server.should_exit or (
        not loading.cancelled() and loading.exception() is not None
    )


async def _load(
    building: asyncio.Task[tuple[Service, uvicorn.Server]],
    engine: EngineClient,
    config: EngineConfig,
    listener: socket.socket,
    say: Say,
) -> None:
    """Weights in the engine's process, the text side here, at the same time."""
    started = time.perf_counter()
    files = await in_daemon(hub.resolve, config.model)
    say(f"loading {files.name} from {files.path}")
    _, service, (tokenizer, template) = await asyncio.gather(  # one failure is told, not three
        engine.start(), _named(building, files), _text_side(building, files)
    )
    service.tokenizer, service.template = tokenizer, template
    gc.freeze()  # no later collection need walk through vocabulary and modules
    gc.enable()
    give_back()
    info = engine.info
    say(
        f"{info.architecture}, {info.weight_bytes / 1e6:.0f} MB of weights, context "
        f"{info.max_model_len} tokens, KV cache {_kv_megabytes(info):.0f} MB for "
        f"{info.kv_cache_tokens} tokens, loaded in {time.perf_counter() - started:.1f} s"
    )
    from legato.sampling_params import unsound

    for problem in unsound(service.engine.info.default_sampling):
        LOG.warning("%s", problem)
    say(_invitation(service, listener))
    await _settle(service)


def _kv_megabytes(info: ModelInfo) -> float:
    return info.num_blocks * info.kv_bytes_per_block / 1e6


async def _named(
    building: asyncio.Task[tuple[Service, uvicorn.Server]], files: ModelFiles
) -> Service:
    service, _ = await asyncio.shield(building)
    service.model_name = service.config.served_model_name or files.name
    return service


async def _text_side(
    building: asyncio.Task[tuple[Service, uvicorn.Server]], files: ModelFiles
) -> tuple[Tokenizer, ChatTemplate | None]:
    """After the imports: threads that share Python's lock would only slow each other down."""
    service, _ = await asyncio.shield(building)
    from legato.text.template import load_chat_template
    from legato.text.tokenizer import load_tokenizer

    path = service.config.chat_template
    override = Path(path) if path else None

    def load() -> tuple[Tokenizer, ChatTemplate | None]:
        metadata = read_metadata(files.path) if files.path.is_file() else None
        template = load_chat_template(files.path, override, metadata)
        return load_tokenizer(files.path, metadata), template

    return await asyncio.to_thread(load)


async def _settle(service: Service) -> None:
    """What can wait until nobody is served: it would hold up the first answers."""
    await asyncio.sleep(QUIET)
    while service.engine.stats.running or service.engine.stats.waiting:
        await asyncio.sleep(QUIET)
    await asyncio.to_thread(lambda: service.spellings)  # before somebody has to wait for it
    service.describe_tokens()
    give_back()


def _invitation(service: Service, listener: socket.socket) -> str:
    """Where the server is, and a line to paste which continues an assistant's message."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if service.template is None:
        path, body = "completions", {"prompt": "The capital of France is", "temperature": 0}
    else:
        question = {"role": "user", "content": "What is the capital of France?"}
        begun = {"role": "assistant", "content": "According to "}
        path, body = (
            "chat/completions",
            {"messages": [question, begun], "temperature": 0, "max_tokens": 40},
        )
    key = "" if not service.config.api_keys else " -H 'Authorization: Bearer YOUR-KEY'"
    data = shlex.quote(msgspec.json.encode(body).decode())
    return f"ready at {url}\n\n  curl {url}/v1/{path}{key} -d {data}\n"
