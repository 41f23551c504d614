"""The real models, where they are installed, against a float32 run of their dequantised weights.

``benchmarks/quality.py`` reports the same figures over more tokens, with llama.cpp's beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_oracle import oracle
from stepping import Stepper

from legato import models
from legato.config import EngineConfig
from legato.text.tokenizer import load_tokenizer
from legato.weights import hub

TEXT = """It is a truth universally acknowledged, that a single man in possession of a good fortune,
must be in want of a wife. However little known the feelings or views of such a man may be on his first
entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families, that he
is considered as the rightful property of some one or other of their daughters.

def stable_sort(values: list[int]) -> list[int]:
    \"\"\"Return a sorted copy; equal elements keep their order.\"\"\"
    return [value for _, value in sorted(enumerate(values), key=lambda pair: (pair[1], pair[0]))]
"""


@pytest.mark.parametrize("name", ["smollm2", "gemma3-270m"])
def test_close_to_the_dequantised_weights(name: str) -> None:
    installed = {files.name: files for files in hub.installed()}
    if name not in installed:
        pytest.skip(f"{name} is not installed: legato pull {name}")
    path = installed[name].path
    ids = load_tokenizer(path).encode(TEXT)
    divergences, agreement = distance(path, ids)
    assert np.mean(divergences) < 0.006
    assert agreement > 0.92


def distance(path: Path, ids: list[int]) -> tuple[list[float], float]:
    """(KL(truth || ours) of each token in nats, share of tokens with the same best guess)."""
    config = EngineConfig(model=str(path), kv_cache_memory=2**28, max_num_seqs=1)
    logits = torch.from_numpy(Stepper(models.load(config)).feed(ids))
    with torch.no_grad():
        truth = oracle(path)(torch.tensor([ids]), use_cache=False).logits[0]
    p, q = truth.log_softmax(dim=1), logits.log_softmax(dim=1)
    agreement = (p.argmax(dim=1) == q.argmax(dim=1)).float().mean()
    return (p.exp() * (p - q)).sum(dim=1).tolist(), float(agreement)
