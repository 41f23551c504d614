"""Runs in the export environment: float32 logits of a GGUF file's dequantised weights, by transformers.

    python reference_logits.py model.gguf ids.i32 logits.f32 window

``ids`` holds int32 token ids, read in windows that start anew; ``logits`` gets [tokens, vocabulary].
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    source, given, written, window = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    ).eval()
    ids = np.fromfile(given, np.int32).astype(np.int64)
    with open(written, "wb") as out, torch.no_grad():
        for begin in range(0, len(ids), window):
            part = torch.from_numpy(ids[begin : begin + window])[None]
            model(part, use_cache=False).logits[0].numpy().tofile(out)


if __name__ == "__main__":
    main()
