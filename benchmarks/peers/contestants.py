"""Who runs: every engine in every format of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import build_llama_cpp
from servers import Server, free_port, legato_command, llama_command

from legato.text.tokenizer import load_tokenizer
from peers import environments
from peers.engines import Engine, InProcess, Served
from peers.weights import LLAMA_FORMATS, OPENVINO_FORMATS, Weights

LEGATO, LLAMA, VLLM, OPENVINO = "legato", "llama.cpp", "vllm", "openvino"
ENGINES = (LEGATO, LLAMA, VLLM, OPENVINO)
SHOWN = {LEGATO: "Legato", LLAMA: "llama.cpp", VLLM: "vLLM", OPENVINO: "OpenVINO GenAI"}
RUNNER = Path(__file__).with_name("run_openvino.py")
CACHE_GIB = 2
VLLM_PATIENCE = 600.0  # seconds: it compiles before it is ready


@dataclass(frozen=True)
class Room:
    """What a contestant must have room for. llama-server divides its context among its slots."""

    threads: int = 2
    slots: int = 32
    slot_tokens: int = 1408
    processor: str = "native"  # or an older one that Legato and llama.cpp shall take it for

    @property
    def context(self) -> int:
        return self.slots * self.slot_tokens


@dataclass(frozen=True)
class Contestant:
    """``prepare`` installs and converts (minutes the first time; EngineError if it cannot);
    ``start`` gives an engine that is ready within its block."""

    engine: str
    format: str
    prepare: Callable[[], object]
    start: Callable[[Room], AbstractContextManager[Engine]]

    @property
    def name(self) -> str:
        return f"{SHOWN[self.engine]} {self.format}"

    @property
    def is_ours(self) -> bool:
        return self.engine == LEGATO


def contestants(weights: Weights) -> list[Contestant]:
    """All of them, ours first."""
    found = [_legato_gguf(weights, format) for format in ("Q4_1", "Q8_0", "BF16")]
    found += [_legato_quantised(weights, kind) for kind in ("int8", "int4")]
    found += [_llama(weights, format) for format in LLAMA_FORMATS]
    found += [_vllm(weights), *(_openvino(weights, format) for format in OPENVINO_FORMATS)]
    return found


def _legato_gguf(weights: Weights, format: str) -> Contestant:
    def start(room: Room) -> Served:
        return _legato(str(weights.gguf(format)), room)

    return Contestant(LEGATO, format, lambda: weights.gguf(format), start)


def _legato_quantised(weights: Weights, kind: str) -> Contestant:
    def start(room: Room) -> Served:
        return _legato(str(weights.checkpoint()), room, "--quantization", kind)

    return Contestant(LEGATO, kind, weights.checkpoint, start)


def _legato(model: str, room: Room, *flags: str) -> Served:
    port = free_port()
    command = legato_command(model, room.threads, port)
    # as much room for keys and values as the peers are given
    command += ["--kv-cache-memory", str(CACHE_GIB << 30), *flags]
    older = {} if room.processor == "native" else {"LEGATO_ISA": room.processor}
    return Served(Server("legato", command, port, older))


def _llama(weights: Weights, format: str) -> Contestant:
    def prepare() -> None:
        build_llama_cpp.build()
        weights.gguf(format)

    def start(room: Room) -> Served:
        port, program = free_port(), str(build_llama_cpp.build(room.processor) / "llama-server")
        model = str(weights.gguf(format))
        command = llama_command(program, model, room.threads, port, room.slots, room.context)
        return Served(Server("llama-server", command, port))

    return Contestant(LLAMA, format, prepare, start)


def _vllm(weights: Weights) -> Contestant:
    def prepare() -> None:
        environments.vllm()
        weights.checkpoint()

    def start(room: Room) -> Served:
        port = free_port()
        command = [str(environments.vllm()), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(weights.checkpoint()), "--dtype", "bfloat16"]
        command += ["--max-model-len", "8192", "--host", "127.0.0.1", "--port", str(port)]
        environment = environments.vllm_settings(room.threads, CACHE_GIB)
        return Served(Server("vllm", command, port, environment, VLLM_PATIENCE))

    return Contestant(VLLM, "bf16", prepare, start)


def _openvino(weights: Weights, format: str) -> Contestant:
    def prepare() -> None:
        environments.openvino()
        weights.openvino(format)

    def start(room: Room) -> InProcess:
        return openvino(weights, format, room.threads, CACHE_GIB)

    return Contestant(OPENVINO, format, prepare, start)


def openvino(weights: Weights, format: str, threads: int, cache_gib: int) -> InProcess:
    """Without a cache it writes logits only."""
    command = [str(environments.openvino()), str(RUNNER), str(weights.openvino(format))]
    tokenizer = load_tokenizer(weights.source)
    return InProcess([*command, str(threads), str(cache_gib)], tokenizer.decode)
