"""Runs in the export environment: the weights of a GGUF file as a bfloat16 Hugging Face folder.

    python export_checkpoint.py model.gguf folder

transformers reads the GGUF file and dequantises it. The tokenizer is not its own: tokenizer_files.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def export(source: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16
    )
    model.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
