"""``legato serve``: take the port, load the model behind it, and answer until told to stop."""

from __future__ import annotations

import asyncio
import errno
import gc
import shlex
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from legato.config import EngineConfig, ServerConfig
from legato.errors import ConfigError
from legato.sampling_params import SeedSource
from legato.server.app import build_app
from legato.server.bridge import EngineClient
from legato.server.service import Service
from legato.text.template import load_chat_template
from legato.text.tokenizer import load_tokenizer
from legato.weights import hub

Say = Callable[[str], None]
GRACE = 3  # seconds that open streams get when the server is told to stop


def serve(engine_config: EngineConfig, config: ServerConfig, say: Say) -> None:
    """Runs until SIGINT or SIGTERM. Raises LegatoError if the port or the model is unusable."""
    listener = listen(config.host, config.port)
    engine = EngineClient(engine_config)
    service = Service(
        engine=engine,
        config=config,
        seeds=SeedSource(engine_config.seed),
        model_name=config.served_model_name or engine_config.model,
    )
    uvicorn_config = uvicorn.Config(
        build_app(service),
        log_level="debug" if config.log_level == "debug" else "warning",
        access_log=config.log_level == "debug",
        timeout_graceful_shutdown=GRACE,
        lifespan="off",
    )
    server = uvicorn.Server(uvicorn_config)
    runner = asyncio.Runner(loop_factory=uvicorn_config.get_loop_factory())
    with listener, runner:
        loading = _load(service, engine, engine_config.model, listener, say)
        runner.run(_run(server, listener, engine, loading))


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


async def _run(
    server: uvicorn.Server,
    listener: socket.socket,
    engine: EngineClient,
    loads: Coroutine[Any, Any, None],
) -> None:
    loading = asyncio.create_task(loads)
    loading.add_done_callback(lambda task: _stop_on_failure(task, server))
    try:
        await server.serve(sockets=[listener])
    finally:
        loading.cancel()
        await asyncio.wait((loading,))
        await engine.stop()
    if not loading.cancelled():
        loading.result()  # raises what made loading fail


def _stop_on_failure(loading: asyncio.Task[None], server: uvicorn.Server) -> None:
    server.should_exit = server.should_exit or (
        not loading.cancelled() and loading.exception() is not None
    )


async def _load(
    service: Service, engine: EngineClient, model: str, listener: socket.socket, say: Say
) -> None:
    """Tokenizer and weights at the same time: the one here, the others in the engine's process."""
    started = time.perf_counter()
    files = await asyncio.to_thread(hub.resolve, model)
    say(f"loading {files.name} from {files.path}")
    service.model_name = service.config.served_model_name or files.name
    template_path = service.config.chat_template
    override = Path(template_path) if template_path else None
    _, tokenizer, service.template = await asyncio.gather(  # one failure is told, not three
        engine.start(),
        asyncio.to_thread(load_tokenizer, files.path),
        asyncio.to_thread(load_chat_template, files.path, override),
    )
    service.tokenizer = tokenizer
    # What is here now stays: no later collection need walk through vocabulary and modules, which
    # would hold up the streams.
    gc.collect()
    gc.freeze()
    info = engine.info
    say(
        f"{info.architecture}, {info.weight_bytes / 1e6:.0f} MB of weights, context "
        f"{info.max_model_len} tokens, loaded in {time.perf_counter() - started:.1f} s"
    )
    say(_invitation(service, listener))
    await asyncio.to_thread(lambda: service.spellings)  # before somebody has to wait for it
    service.describe_tokens()


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
    key = "" if service.config.api_key is None else " -H 'Authorization: Bearer YOUR-KEY'"
    data = shlex.quote(msgspec.json.encode(body).decode())
    return f"ready at {url}\n\n  curl {url}/v1/{path}{key} -d {data}\n"
