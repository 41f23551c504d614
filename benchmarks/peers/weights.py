"""The same weights for every engine, made from one GGUF file and kept in the cache folder.

The file is dequantised to bfloat16 once, as a Hugging Face folder and as a GGUF file; every other format is
made from one of these two by the peer's own tool.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import build_llama_cpp

from legato.errors import EngineError
from legato.gguf_file import read_metadata
from peers import environments
from peers.environments import run, say
from peers.tokenizer_files import write_tokenizer

HERE = Path(__file__).parent
UINT32 = (4).to_bytes(4, "little")  # a GGUF value's type
LLAMA_FORMATS = ("Q4_0", "Q4_1", "Q8_0", "BF16")
OPENVINO_FORMATS = ("int8", "int4", "fp16")


@dataclass(frozen=True)
class Weights:
    """Of one model: ``source`` is the GGUF file that all formats come from."""

    source: Path

    @property
    def folder(self) -> Path:
        return environments.folder() / "weights" / self.source.stem

    def gguf(self, format: str) -> Path:
        """A GGUF file in BF16, Q8_0, Q4_0 or Q4_1; the source itself if it is of that format."""
        if self.source.stem.lower().endswith(format.lower()):
            return self.source
        return self._made(f"{format}.gguf", lambda path: self._quantise(format, path))

    def checkpoint(self) -> Path:
        """A Hugging Face folder in bfloat16."""
        return self._made("bf16", self._checkpoint)

    def openvino(self, format: str) -> Path:
        """A folder that OpenVINO GenAI loads, in fp16, int8 or int4."""
        return self._made(f"openvino-{format}", lambda path: self._export(format, path))

    def with_context(self, tokens: int) -> Weights:
        """The same weights in a file that promises a longer context: for its cost, not for its text."""
        name = f"context-{tokens}.{self.source.stem}"
        return Weights(self._made(f"{name}.gguf", lambda path: self._promise(tokens, path)))

    def _promise(self, tokens: int, path: Path) -> None:
        content = bytearray(self.source.read_bytes())
        key = f"{read_metadata(self.source)['general.architecture']}.context_length".encode()
        place = content.index(key) + len(key)  # then come a type, uint32, and the number
        if content[place : place + 4] != UINT32:
            raise EngineError(f"{self.source.name}: {key.decode()} is not a uint32")
        content[place + 4 : place + 8] = tokens.to_bytes(4, "little")
        path.write_bytes(content)

    def _checkpoint(self, path: Path) -> None:
        script, problem = HERE / "export_checkpoint.py", f"{self.source.name} is not converted"
        run([environments.exporter(), script, self.source, path], problem, HF_HUB_OFFLINE="1")
        write_tokenizer(self.source, path)

    def _quantise(self, format: str, path: Path) -> None:
        source = self.source if format == "BF16" else self.gguf("BF16")
        program = build_llama_cpp.build() / "llama-quantize"
        command: list[str | Path] = [program, "--allow-requantize", source, path, format]
        run(command, f"llama-quantize does not make {format}")

    def _export(self, format: str, path: Path) -> None:
        tool = environments.exporter().with_name("optimum-cli")
        command: list[str | Path] = [tool, "export", "openvino", "--model", self.checkpoint()]
        command += ["--task", "text-generation-with-past", "--weight-format", format]
        command += ["--group-size", "64"] if format == "int4" else []  # 128 does not divide 576
        command += [path]
        run(command, f"optimum-cli does not export {format}", HF_HUB_OFFLINE="1")

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        """The file or folder of that name; it appears when it is whole."""
        target = self.folder / name
        if not target.exists():
            say(f"converting {self.source.name} to {name}, once")
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"part-{name}")
            _remove(part)
            make(part)
            part.rename(target)
        return target


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
