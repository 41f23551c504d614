"""The prefix cache's file: what no version has written is refused, and what is written has bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_persistence import KEY, Life, grown, kept

from legato import _native as native
from legato import kept_file
from legato.batch import BLOCK_SIZE
from legato.cache.kept_blocks import HEADER_BYTES, AbandonedError, KeptBlocks, parse, save

FULL = [*range(BLOCK_SIZE)]


def header(*blocks: list[Any], **changed: object) -> dict[str, Any]:
    """``blocks``: parent and tokens of each."""
    entries = [[parent, 0, tokens, "0"] for parent, tokens in blocks]
    return {"salts": [""], "blocks": entries, "payload_bytes": 256 * len(entries), **changed}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (header([0, FULL]), "before its parent"),
        (header([-1, FULL], [2, [1]], [0, FULL]), "before its parent"),
        (header([-2, FULL]), "before its parent"),
        (header([-1, FULL], salts=[7]), "before its parent"),
        (header([-1, []]), "no tokens, or too many"),
        (header([-1, [*FULL, 1]]), "no tokens, or too many"),
        (header([-1, FULL], payload_bytes=255), "as many bytes as blocks"),
        (header([-1, FULL], salts=[]), "not understood"),
        (header([-1, FULL], blocks=[[-1, 0]]), "."),
        ({}, "not understood"),
    ],
)
def test_headers_that_no_version_has_written(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(wrong, 256)
    assert len(parse(header([-1, FULL], [0, [1]]), 256)) == 2


def test_nothing_comes_back_behind_a_block_that_is_not_full(tmp_path: Path) -> None:
    path = tmp_path / "kept.legato-kv"
    life = Life(path)
    data = bytes(256)
    found = header([-1, [1, 2]], [0, FULL], [1, [3]], [-1, FULL])
    for entry in found["blocks"]:
        entry[3] = f"{native.checksum(data):x}"
    kept_file.write(path, {**found, "key": KEY}, [data] * 4)
    assert life.restore() == 2 and life.engine.stats().blocks_cached == 2


def test_no_more_is_kept_than_a_header_can_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be read again would be no use."""
    monkeypatch.setattr(kept_file, "MAX_HEADER", 7 * HEADER_BYTES)
    path = kept(tmp_path)
    assert len(KeptBlocks(kept_file.read(path, KEY), 256).blocks) == 7


def test_what_is_urgent_interrupts_the_payload_too(tmp_path: Path) -> None:
    path = kept(tmp_path)
    before, life = path.read_bytes(), grown(path)
    looks = iter([False] * (life.engine.stats().blocks_cached + 2) + [True])
    with pytest.raises(AbandonedError):
        save(
            path, KEY, life.engine.kv_cache, life.program, native.checksum,
            most_bytes=10**6, is_urgent=lambda: next(looks),
        )  # fmt: skip
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
