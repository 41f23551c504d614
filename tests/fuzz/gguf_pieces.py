"""GGUF files as lists of pieces that can be changed before they are written, right or not."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from tiny_files import HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, llama_tensors

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
_CODES: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", U32: "I", 5: "i", F32: "f", BOOL: "?", U64: "Q", 11: "q", 12: "d",
}  # fmt: skip
ALIGNMENT: Final = 4096  # the file ends with a page: what reads behind it does not read zeros


@dataclass
class Entry:
    key: str
    kind: int
    value: Any  # of an array: (kind, values)


@dataclass
class Info:
    name: str
    dims: list[int]  # innermost first
    kind: int
    offset: int


@dataclass
class Pieces:
    entries: list[Entry]
    infos: list[Info]
    data: bytes
    version: int = 3
    counts: dict[str, int] = field(default_factory=dict)  # told instead of the real ones

    def header(self) -> bytes:
        tensors = self.counts.get("tensors", len(self.infos))
        entries = self.counts.get("entries", len(self.entries))
        parts = [b"GGUF", struct.pack("<IQQ", self.version, tensors, entries)]
        parts += [
            _string(entry.key) + struct.pack("<I", entry.kind) + _value(entry.kind, entry.value)
            for entry in self.entries
        ]
        for info in self.infos:
            dims = struct.pack(f"<I{len(info.dims)}Q", len(info.dims), *info.dims)
            parts.append(_string(info.name) + dims + struct.pack("<IQ", info.kind, info.offset))
        return b"".join(parts)

    def file(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % ALIGNMENT) + self.data


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, v) for v in values)
    code = _CODES.get(kind)
    return b"" if code is None else struct.pack("<" + code, value)


WORDS: Final = [
    "<|im_start|>",
    "<|im_end|>",
    "user",
    "assistant",
    "Ġhi",
    "hi",
    "Ġ",
    "Ċ",
    "h",
    "i",
    ":",
]


def whole() -> Pieces:
    """A model of two layers with a vocabulary of bytes and a few words."""
    letters = [chr(code) for code in range(33, 127)] + [chr(code) for code in range(0xA1, 0x150)]
    tokens = list(dict.fromkeys(WORDS + letters))
    vocabulary = len(tokens)
    shapes = {name: value for name, value in llama_tensors().items()}
    generator = np.random.default_rng(1)
    for name in ("token_embd.weight", "output.weight"):
        shapes[name] = generator.normal(size=(vocabulary, HIDDEN)).astype(np.float32)
    infos, data = [], b""
    for name, value in shapes.items():
        infos.append(Info(name, list(value.shape[::-1]), 0, len(data)))
        raw = value.tobytes()
        data += raw + bytes(-len(raw) % ALIGNMENT)
    llama = {
        "block_count": LAYERS,
        "context_length": 256,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
    }
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    )
    entries = [
        Entry("general.architecture", STRING, "llama"),
        Entry("general.alignment", U32, ALIGNMENT),
        *[Entry(f"llama.{key}", U32, value) for key, value in llama.items()],
        Entry("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
        Entry("llama.rope.freq_base", F32, 10000.0),
        Entry("general.sampling.temp", F32, 0.5),
        Entry("tokenizer.ggml.model", STRING, "gpt2"),
        Entry("tokenizer.ggml.pre", STRING, "smollm"),
        Entry("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        Entry("tokenizer.ggml.token_type", ARRAY, (5, [3, 3] + [1] * (vocabulary - 2))),
        Entry("tokenizer.ggml.merges", ARRAY, (STRING, ["h i"])),
        Entry("tokenizer.ggml.bos_token_id", U32, 0),
        Entry("tokenizer.ggml.eos_token_id", U32, 1),
        Entry("tokenizer.ggml.add_bos_token", BOOL, False),
        Entry("tokenizer.chat_template", STRING, template),
    ]
    return Pieces(entries, infos, data)
