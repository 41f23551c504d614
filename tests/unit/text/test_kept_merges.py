"""Merges that are kept are those that the scores give, or they are made anew."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from legato.text import merges
from legato.text.gguf_tokenizer import load_gguf_tokenizer
from legato.text.vocabulary import Tokenizer


@pytest.fixture
def vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A model's file (whatever it holds) and tokens of which many are two others joined."""
    monkeypatch.setattr(merges, "FEW", 10)
    draw = random.Random(0)
    tokens = [*"abcde▁é"]
    while len(tokens) < 400:
        token = draw.choice(tokens) + draw.choice(tokens)
        if token not in tokens:
            tokens.append(token)
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(1000))
    return path, tokens


def made(path: Path, tokens: list[str], load_cache: str = "auto") -> merges.Merges:
    scores = [float(-id) for id in range(len(tokens))]
    ids = {token: id for id, token in enumerate(tokens)}
    return merges.kept_merges(path, load_cache, tokens, [*range(len(tokens))], scores, ids)


def test_the_same_merges_in_the_same_order(
    vocabulary: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tokens = vocabulary
    plain = made(path, tokens, "off")
    assert len(plain) >= 393 and not path.with_name("m.gguf" + merges.SUFFIX).exists()
    assert made(path, tokens) == plain
    monkeypatch.setattr(merges, "merges_from_scores", lambda *_: pytest.fail("made anew"))
    assert made(path, tokens) == plain


def flip(place: int) -> Callable[[Path, Path], None]:
    def damage(model: Path, kept: Path) -> None:
        data = bytearray(kept.read_bytes())
        data[place] ^= 1
        kept.write_bytes(data)

    return damage


def cut(model: Path, kept: Path) -> None:
    os.truncate(kept, kept.stat().st_size - 4)


def touch(model: Path, kept: Path) -> None:
    os.utime(model, ns=(0, 1))


@pytest.mark.parametrize("damage", [flip(0), flip(60), flip(4096), flip(-1), cut, touch])
def test_what_is_damaged_or_stale_is_made_anew(
    vocabulary: tuple[Path, list[str]],
    damage: Callable[[Path, Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, tokens = vocabulary
    plain = made(path, tokens)
    kept = path.with_name("m.gguf" + merges.SUFFIX)
    damage(path, kept)
    with caplog.at_level(logging.WARNING):
        assert made(path, tokens) == plain
    assert "made anew" in caplog.text
    caplog.clear()
    assert made(path, tokens) == plain and not caplog.text


def test_gemma_reads_as_before(gemma3_path: Path, gemma3: Tokenizer, tmp_path: Path) -> None:
    load_gguf_tokenizer(gemma3_path, str(tmp_path))
    assert len([*tmp_path.iterdir()]) == 1
    second = load_gguf_tokenizer(gemma3_path, str(tmp_path))
    for text in ("Hello world", "  naïve über 漢字 🎉\n\tdef f(x):", "a" * 50, " ▁ <bos> x"):
        assert second.encode(text) == gemma3.encode(text)
