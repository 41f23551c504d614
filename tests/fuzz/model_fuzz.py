"""Tiny models on disk, one file of each damaged, loaded in another process."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf_pieces
import tokenizers
from file_mutations import (
    damaged_gguf,
    damaged_json,
    damaged_safetensors,
    damaged_template,
)
from load_in_child import Child
from tiny_files import LLAMA, VOCAB, hf_name, llama_tensors, write_folder

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@dataclass
class Found:
    kinds: Counter[str] = field(default_factory=Counter)  # "loaded", "refused", "wrong"
    wrong: list[str] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    slowest: float = 0.0


def folder_model(folder: Path) -> Path:
    """A Hugging Face folder with every file that is read, its weights in two shards."""
    write_folder(folder)
    names = [f"<{number}>" for number in range(VOCAB - 4)]
    vocabulary = {name: id for id, name in enumerate(["<s>", "</s>", "h", "i", *names])}
    model = tokenizers.models.BPE(vocabulary, [], byte_fallback=True, unk_token="<s>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    files = {
        "tokenizer_config.json": {**special, "add_bos_token": True, "chat_template": TEMPLATE},
        "special_tokens_map.json": special,
        "generation_config.json": {"eos_token_id": [1, 2], "temperature": 0.6, "top_k": 20},
        "config.json": LLAMA,
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def sharded_model(folder: Path) -> Path:
    from safetensors.numpy import save_file

    folder_model(folder)
    (folder / "model.safetensors").unlink()
    tensors = {hf_name(name): value for name, value in llama_tensors().items()}
    halves = [dict(sorted(tensors.items())[part::2]) for part in range(2)]
    for number, half in enumerate(halves):
        save_file(half, folder / f"part-{number}.safetensors")
    places = {
        name: f"part-{number}.safetensors" for number, half in enumerate(halves) for name in half
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


class ModelFuzz:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.dice, self.child = folder, random.Random(seed), Child()
        self.gguf = gguf_pieces.whole()
        (folder / "whole.gguf").write_bytes(self.gguf.file())
        self.models = {
            "folder": folder_model(folder / "folder"),
            "shards": sharded_model(folder / "shards"),
            "gguf": folder / "whole.gguf",
        }
        self.makers: dict[str, Callable[[bytes], bytes]] = {
            "tokenizer.json": self._json,
            "tokenizer_config.json": self._json,
            "special_tokens_map.json": self._json,
            "generation_config.json": self._json,
            "config.json": self._json,
            "chat_template.jinja": lambda data: damaged_template(data.decode(), self.dice),
            "model.safetensors": lambda data: damaged_safetensors(data, self.dice),
        }

    def _json(self, data: bytes) -> bytes:
        return damaged_json(data.decode(), self.dice)

    def run(self, until: Callable[[int], bool]) -> Found:
        """``until``: whether to stop after so many."""
        found = Found()
        try:
            while not until(found.kinds.total()):
                self._one(found)
        finally:
            self.child.close()
        return found

    def _one(self, found: Found) -> None:
        if self.dice.random() < 0.4:
            path = file = self.folder / "damaged.gguf"
            data = damaged_gguf(self.gguf, self.dice)
            restore = data
        else:
            path, name, maker = self._in_folder()
            file = path / name
            restore = file.read_bytes()
            data = maker(restore)
        file.unlink(missing_ok=True)  # a new inode: the old one may still be mapped
        file.write_bytes(data)
        started = time.monotonic()
        outcome = self.child.outcome(path)
        found.slowest = max(found.slowest, time.monotonic() - started)
        self._judge(found, outcome, path, file)
        file.unlink()
        file.write_bytes(restore)

    def _in_folder(self) -> tuple[Path, str, Callable[[bytes], bytes]]:
        if self.dice.random() < 0.15:
            return self.models["shards"], "model.safetensors.index.json", self._json
        name = self.dice.choice(list(self.makers))
        return self.models["folder"], name, self.makers[name]

    def _judge(self, found: Found, outcome: str, path: Path, file: Path) -> None:
        kind = outcome.partition(":")[0]
        # The KV cache is the operator's to size, and the message names the setting.
        names = (path.name, file.name, "kv_cache_memory")
        if kind == "refused" and not any(name in outcome for name in names):
            kind, outcome = "wrong", f"names no file: {outcome}"
        found.kinds[kind] += 1
        if kind == "wrong":
            kept = self.folder / f"wrong-{len(found.kept)}{file.suffix}"
            shutil.copy(file, kept)
            found.kept.append(kept)
            found.wrong.append(f"{file.name} ({kept}): {outcome[-1500:]}")
