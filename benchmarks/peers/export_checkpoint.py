"""Runs in the export environment: a GGUF file as a bfloat16 Hugging Face folder.

    python export_checkpoint.py model.gguf folder

transformers reads the GGUF file and dequantises it. What it makes of the tokenizer is mended, so that every engine
sees the same token ids: the pre-tokenizer that parts digits, which SmolLM2's files ask for
(``tokenizer.ggml.pre = smollm``), is left out, and byte-level tokens are decoded as if they were SentencePiece's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PARTS_DIGITS = ("smollm", "starcoder", "refact", "command-r")


def export(source: Path, folder: Path) -> None:
    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    model.save_pretrained(folder, safe_serialization=True)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    _mend(folder / "tokenizer.json", _text(source, "model"), _text(source, "pre"))


def _text(source: Path, key: str) -> str:
    field = gguf.GGUFReader(source).get_field(f"tokenizer.ggml.{key}")
    return "" if field is None else str(field.contents())


def _mend(file: Path, kind: str, pre: str) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    if kind == "gpt2":
        content["decoder"] = BYTES
    if pre in PARTS_DIGITS:
        before = content["pre_tokenizer"]
        steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
        if DIGITS not in steps:
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [DIGITS, *steps]}
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
