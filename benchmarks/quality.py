"""How close to the truth: logits against a float32 run of the same file's dequantised weights.

    python benchmarks/quality.py model.gguf [--llama-dump PROGRAM] [--kv-cache-dtype bfloat16]

The truth is a transformers model with the weights as the gguf package dequantises them. Reported over the
tokens of a text: mean and 99th percentile of KL(truth || engine) in nats, how often the most likely token
is the same, and the perplexity. ``--llama-dump`` is a program that is called as
``PROGRAM model.gguf ids.i32 logits.f32`` and writes llama.cpp's logits [tokens, vocab] as float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from divergence import compare

from legato import models
from legato.config import EngineConfig
from legato.text.tokenizer import load_tokenizer

sys.path.append(str(Path(__file__).parent.parent / "tests" / "models"))
from gguf_oracle import oracle
from stepping import Stepper

CHUNK = 256


def truth(path: Path, ids: list[int]) -> np.ndarray:
    """[tokens, vocab] of the dequantised weights in float32."""
    with torch.no_grad():
        logits: np.ndarray = oracle(path)(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return logits


def ours(path: Path, ids: list[int], dtype: str, isa: str | None) -> np.ndarray:
    config = EngineConfig(
        model=str(path), kv_cache_dtype=dtype, kv_cache_memory=2**30, isa=isa, max_num_seqs=1
    )
    stepper = Stepper(models.load(config))
    return np.concatenate([stepper.feed(ids[i : i + CHUNK]) for i in range(0, len(ids), CHUNK)])


def llama_cpp(program: str, path: Path, ids: list[int]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        given, written = Path(folder) / "ids.i32", Path(folder) / "logits.f32"
        np.asarray(ids, np.int32).tofile(given)
        subprocess.run([program, path, given, written], check=True, stdout=subprocess.DEVNULL)
        return np.fromfile(written, np.float32).reshape(len(ids), -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--text", type=Path, default=Path(__file__).with_name("quality_text.txt"))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--isa", default=None)
    parser.add_argument("--llama-dump", default=None, help="program that writes llama.cpp's logits")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ids = load_tokenizer(options.model).encode(options.text.read_text(encoding="utf-8"))
    ids = ids[: options.tokens]
    expected = truth(options.model, ids)
    results: dict[str, Any] = {
        "legato": compare(
            expected, ours(options.model, ids, options.kv_cache_dtype, options.isa), ids
        )
    }
    if options.llama_dump:
        results["llama.cpp"] = compare(
            expected, llama_cpp(options.llama_dump, options.model, ids), ids
        )
    if options.json:
        print(json.dumps({"tokens": len(ids), "model": options.model.name} | results, indent=1))
        return
    print(f"{options.model.name}, {len(ids)} tokens, against float32 of the dequantised weights")
    for engine, r in results.items():
        print(
            f"{engine:10} mean KL {r['mean_kl']:.3e}  p99 {r['p99_kl']:.3e}  top-1 {r['top1']:.4f}"
            f"  perplexity {r['perplexity']:.4f} (reference {r['reference_perplexity']:.4f})"
        )


if __name__ == "__main__":
    main()
