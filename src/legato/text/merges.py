"""The merges of a SentencePiece vocabulary: made from its scores, and kept for the next start.

Gemma's half million take a second to find, and 0.1 s to read. They are kept as pairs of token ids.
"""

from __future__ import annotations

import logging
import sys
from array import array
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Final

from legato.kept_file import Keeper, Kept, identity

log = logging.getLogger(__name__)
SUFFIX: Final = ".legato-merges"
FEW: Final = 50_000  # tokens of which the merges are found faster than a file is worth
VERSION: Final = 1  # of the order and the choice of merges

Merges = list[tuple[str, str]]


def merges_from_scores(
    tokens: list[str], mergeable: list[int], scores: list[float], vocabulary: dict[str, int]
) -> Merges:
    """Every way to make a token (one of the ids ``mergeable``) of two others, best token first.

    SentencePiece joins whichever neighbours make the token of the highest score, which is BPE with
    these merges. One comprehension, because Gemma has 1.7 million candidates.
    """
    order = sorted(mergeable, key=scores.__getitem__, reverse=True)
    return [
        (left, right)
        for token in map(tokens.__getitem__, order)
        for cut in range(1, len(token))
        if (right := token[cut:]) in vocabulary and (left := token[:cut]) in vocabulary
    ]


def kept_merges(
    path: Path,
    load_cache: str,
    tokens: list[str],
    mergeable: list[int],
    scores: list[float],
    vocabulary: dict[str, int],
) -> Merges:
    """``merges_from_scores``, read from a file where an earlier start kept them.

    ``path``: the model's file; ``load_cache``: ``EngineConfig.load_cache``.
    """
    keeper = Keeper("off" if len(tokens) < FEW else load_cache, path, SUFFIX)
    if not keeper.paths:
        return merges_from_scores(tokens, mergeable, scores, vocabulary)
    key: dict[str, Any] = {
        "sources": [identity(path)],
        "version": VERSION,
        "order": sys.byteorder,
    }
    kept = keeper.read(key)
    merges = None if kept is None else _read(kept, tokens)
    if merges is None:
        merges = merges_from_scores(tokens, mergeable, scores, vocabulary)
        data = array("i", map(vocabulary.__getitem__, chain.from_iterable(merges))).tobytes()
        header = {"payload_bytes": len(data), "checksum": _checksum(data)}
        keeper.write(key, header, [data])
    return merges


def _read(kept: Kept, tokens: list[str]) -> Merges | None:
    data = kept.path.read_bytes()[kept.offset :]
    if _checksum(data) != kept.header["checksum"]:
        log.warning("%s is not used, but made anew: its pairs are damaged", kept.path)
        return None
    ids = array("i", data)
    return list(
        zip(map(tokens.__getitem__, ids[::2]), map(tokens.__getitem__, ids[1::2]), strict=True)
    )


def _checksum(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
