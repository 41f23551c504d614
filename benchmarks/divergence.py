"""How far logits are from the truth, token by token."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return result


def compare(
    expected: np.ndarray, logits: np.ndarray, ids: list[int], window: int = 0
) -> dict[str, float]:
    """Of logits [tokens, vocab]; texts start anew every ``window`` tokens (0: never), where nothing says
    what comes next. Row by row: a [1000, 262144] array of doubles would not fit everywhere."""
    divergences, agreements, surprises, reference_surprises = [], [], [], []
    for row in range(len(ids)):
        p, q = log_softmax(expected[row]), log_softmax(logits[row])
        divergences.append(float((np.exp(p) * (p - q)).sum()))
        agreements.append(p.argmax() == q.argmax())
        if row + 1 < len(ids) and (not window or (row + 1) % window):
            surprises.append(-q[ids[row + 1]])
            reference_surprises.append(-p[ids[row + 1]])
    return {
        "mean_kl": float(np.mean(divergences)),
        "p99_kl": float(np.quantile(divergences, 0.99)),
        "top1": float(np.mean(agreements)),
        "perplexity": float(np.exp(np.mean(surprises))),
        "reference_perplexity": float(np.exp(np.mean(reference_surprises))),
    }


def compare_likeliest(
    expected: np.ndarray, told: list[dict[int, float]], ids: list[int], window: int
) -> dict[str, float]:
    """The same where a server tells only some log-probabilities of each token (``told``: of row ``i``'s
    next token, by id, in window order; empty where a text starts). All other tokens count as one, so
    the divergence is a lower bound."""
    divergences, agreements, surprises, reference_surprises = [], [], [], []
    for row, known in enumerate(told):
        if not known:
            continue
        p = log_softmax(expected[row])
        ranked = np.fromiter(known, np.int64)
        q = np.fromiter(known.values(), np.float64)
        own, rest = np.exp(p[ranked]), max(1 - np.exp(q).sum(), 1e-12)
        own_rest = max(1 - own.sum(), 1e-12)
        found = (own * (p[ranked] - q)).sum() + own_rest * np.log(own_rest / rest)
        divergences.append(float(found))
        agreements.append(p.argmax() == ranked[q.argmax()])
        surprises.append(-known[ids[row + 1]])
        reference_surprises.append(-p[ids[row + 1]])
    return {
        "mean_kl_at_least": float(np.mean(divergences)),
        "top1": float(np.mean(agreements)),
        "perplexity": float(np.exp(np.mean(surprises))),
        "reference_perplexity": float(np.exp(np.mean(reference_surprises))),
    }
