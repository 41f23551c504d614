"""The prefix cache in a file: what comes back is what was there, or nothing.

The fake program's blocks hold tokens and positions, so a block that came back wrong gives other tokens
than the oracle says.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_program import FakeProgram, expected, model_info

from legato import _native as native
from legato.cache.kept_blocks import AbandonedError, KeptBlocks, save
from legato.config import EngineConfig
from legato.engine import Engine
from legato.kept_file import read
from legato.persistence import Persistence
from legato.request import Output, Request, SamplingParams

KEY = {"model": "fake", "build": 1}
SHARED = [list(range(1, 40)), [7] * 50, [3, 1, 4, 1, 5, 9, 2, 6] * 6]


class Life:
    """An engine, its memory, and the file it keeps."""

    def __init__(
        self, path: Path, key: dict[str, Any] | None = None, blocks: int = 64, most: int = 10**9
    ) -> None:
        self.program = FakeProgram(num_blocks=blocks)
        self.engine = Engine(self.program, model_info(blocks), EngineConfig(model="fake"))
        self.kept = Persistence(
            self.engine.kv_cache, self.program, native.checksum, path, lambda: key or KEY, most
        )

    def restore(self) -> int:
        self.kept.begin()
        while self.kept.is_restoring:
            self.kept.advance()
        self.engine.check_integrity()
        return self.kept.restored

    def answer(
        self, requests: list[Request], between: Callable[[], object] = lambda: None
    ) -> dict[str, list[Output]]:
        for request in requests:
            self.engine.add(request)
        told: dict[str, list[Output]] = {request.id: [] for request in requests}
        while self.engine.has_work:
            between()
            for output in self.engine.step():
                told[output.request_id].append(output)
            self.engine.check_integrity()
        return told


def some_requests(seed: int, count: int = 30) -> list[Request]:
    moments = random.Random(seed)
    return [
        Request(
            id=f"{seed}-{number}",
            prompt_token_ids=moments.choice(SHARED)[: moments.randrange(1, 51)]
            + [moments.randrange(1, 48) for _ in range(moments.randrange(3))],
            params=SamplingParams(max_tokens=moments.randrange(1, 40), n=moments.choice((1, 1, 2))),
            cache_salt=moments.choice(("", "", "a", "\u00e4\ud800"[:1])),
        )
        for number in range(count)
    ]


def check(requests: list[Request], told: dict[str, list[Output]]) -> int:
    """Against the oracle; returns how many tokens were found in the cache."""
    found = 0
    for request in requests:
        for index in range(request.params.n):
            outputs = [one for one in told[request.id] if one.index == index]
            tokens = [token for one in outputs for token in one.token_ids]
            assert tokens == expected(request, index, 1000)[0]
            found += outputs[0].cached_tokens or 0
    return found


def kept(tmp_path: Path, seed: int = 0) -> Path:
    path = tmp_path / "kept.legato-kv"
    life = Life(path)
    assert life.restore() == 0
    requests = some_requests(seed)
    check(requests, life.answer(requests))
    assert life.kept.write()
    return path


@pytest.mark.parametrize("seed", range(8))
def test_what_comes_back_is_what_was_there(tmp_path: Path, seed: int) -> None:
    """Restored in the middle of other work, in a pool of another size."""
    path = kept(tmp_path, seed)
    life = Life(path, blocks=random.Random(seed).choice((20, 64, 200)))
    life.kept.begin()
    while life.kept._thread.is_alive():
        time.sleep(0.001)
    steps = iter(range(10**9))
    requests = some_requests(seed + 100, 10)
    check(requests, life.answer(requests, lambda: next(steps) % 3 or life.kept.advance()))
    while life.kept.is_restoring:
        life.kept.advance()
        life.engine.check_integrity()
    again = some_requests(seed)
    assert check(again, life.answer(again)) > 0
    assert life.engine.stats().blocks_used == 0


def test_all_of_it_comes_back(tmp_path: Path) -> None:
    path = kept(tmp_path)
    life = Life(path)
    blocks = len(KeptBlocks(read(path, KEY), life.program.kv_block_bytes()).blocks)
    assert life.restore() == blocks > 10
    assert life.engine.stats().blocks_cached == blocks
    [request] = some_requests(0, 1)
    request.params = SamplingParams(max_tokens=1)
    cached = check([request], life.answer([request]))
    assert cached == len(request.prompt_token_ids) - 1
    other = Request(
        id="other", prompt_token_ids=request.prompt_token_ids, params=request.params,
        cache_salt="of somebody else",
    )  # fmt: skip
    assert check([other], life.answer([other])) == 0


def test_it_goes_on_being_written(tmp_path: Path) -> None:
    """A second life adds to what the first has kept; one in which nothing happens writes nothing."""
    path = kept(tmp_path)
    life = Life(path)
    life.restore()
    requests = some_requests(5, 4)
    check(requests, life.answer(requests))
    assert life.kept.idle(lambda: False) is None
    written = path.stat().st_mtime_ns
    assert life.kept.idle(lambda: False) is None and life.kept.write()
    assert path.stat().st_mtime_ns == written
    after = Life(path)
    after.restore()
    again = some_requests(5, 4)
    assert check(again, after.answer(again)) >= sum(len(r.prompt_token_ids) - 1 for r in again) - 4


def grown(path: Path) -> Life:
    """One that knows more than ``path`` has."""
    life = Life(path)
    life.restore()
    requests = some_requests(5, 4)
    check(requests, life.answer(requests))
    return life


def test_what_is_urgent_interrupts_writing(tmp_path: Path) -> None:
    path = kept(tmp_path)
    before, life = path.read_bytes(), grown(path)
    looks = iter([False] * 20 + [True] * 100)
    assert life.kept.idle(lambda: next(looks)) == 10
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600


def test_the_bound_holds_and_the_newest_stays(tmp_path: Path) -> None:
    path = tmp_path / "kept.legato-kv"
    life = Life(path, most=20 * 256 + 255)
    life.restore()
    requests = some_requests(0)
    check(requests, life.answer(requests))
    last = Request(id="l", prompt_token_ids=[9] * 40, params=SamplingParams(max_tokens=1))
    check([last], life.answer([last]))
    assert life.program.kv_block_bytes() == 256 and life.kept.write()
    blocks = KeptBlocks(read(path, KEY), 256).blocks
    assert len(blocks) == 20
    assert [block.tokens for block in blocks[:2]] == [(9,) * 16] * 2


def test_other_models_files_make_room(tmp_path: Path) -> None:
    """The oldest first; what is not ours stays."""
    others = [tmp_path / name for name in ("old.legato-kv", "new.legato-kv", "other.txt")]
    for age, other in zip((200, 100, 300), others, strict=True):
        other.write_bytes(bytes(1000 if age == 100 else 2**20))
        os.utime(other, (time.time() - age,) * 2)
    life = Life(tmp_path / "kept.legato-kv", most=2**20)
    life.restore()
    requests = some_requests(0, 5)
    check(requests, life.answer(requests))
    assert life.kept.write()
    assert [other.exists() for other in others] == [False, True, True]


def damaged(tmp_path: Path, data: bytes) -> Life:
    (tmp_path / "kept.legato-kv").write_bytes(data)
    return Life(tmp_path / "kept.legato-kv")


def test_any_wrong_bit_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Either the file is ignored with a warning that names it, or the bit meant nothing."""
    path = kept(tmp_path)
    data = path.read_bytes()
    whole = read(path, KEY)
    header = data.rindex(b"}", 0, whole.offset) + 1
    moments = random.Random(0)
    places = [*range(0, 60), *(moments.randrange(60, header) for _ in range(60))]
    places += [moments.randrange(whole.offset, len(data)) for _ in range(120)]
    places += range(len(data) - 8, len(data))
    for place in places:
        caplog.clear()
        changed = bytearray(data)
        changed[place] ^= 1 << moments.randrange(8)
        life = damaged(tmp_path, bytes(changed))
        assert life.restore() == 0, place
        assert str(path) in caplog.text and "is ignored" in caplog.text
    for place in (header, whole.offset - 1):  # between header and payload, nothing is
        changed = bytearray(data)
        changed[place] ^= 1
        assert damaged(tmp_path, bytes(changed)).restore() > 0


@pytest.mark.parametrize("size", [0, 1, 47, 48, 49, 4000, 4096, -1, -256, 1])
def test_any_other_length_is_found(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = kept(tmp_path).read_bytes()
    for wrong in (data[:size], data + bytes(max(size, 1))):
        caplog.clear()
        assert damaged(tmp_path, wrong).restore() == 0
        assert "kept.legato-kv is ignored" in caplog.text


def test_a_foreign_file_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = kept(tmp_path)
    for key in ({**KEY, "model": "other"}, {**KEY, "build": 2}, {**KEY, "weights": "x"}):
        caplog.clear()
        life = Life(path, key=key)
        assert life.restore() == 0
        assert f"{path} is ignored: it was made from another version" in caplog.text
    path.write_text("hello")
    assert Life(path).restore() == 0
    path.unlink()
    caplog.clear()
    assert Life(path).restore() == 0 and not caplog.text
    path.mkdir()
    assert Life(path).restore() == 0 and "is ignored" in caplog.text


def test_damage_after_it_was_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What has come back by then is right; nothing of the rest does."""
    path = kept(tmp_path)
    life = Life(path)
    life.kept.begin()
    life.kept._thread.join()
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"damage")
    while life.kept.is_restoring:
        life.kept.advance()
    assert f"{path} is no longer read" in caplog.text and life.kept.restored > 0
    requests = some_requests(0)
    check(requests, life.answer(requests))


def test_where_nothing_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    life = Life(blocked / "kept.legato-kv")
    life.restore()
    requests = some_requests(0, 3)
    check(requests, life.answer(requests))
    caplog.clear()
    assert not life.kept.write() and "the prefix cache is not kept" in caplog.text
    assert life.kept.idle(lambda: False) > 30  # type: ignore[operator]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = kept(tmp_path)
    data = path.read_bytes()
    part = path.with_name(f"{path.name}.1.part")
    part.write_bytes(data[:5000])
    assert Life(path).restore() > 0
    shutil.copy(part, tmp_path / "x")
    with pytest.raises(AbandonedError):
        life = Life(path)
        life.restore()
        save(
            path, KEY, life.engine.kv_cache, life.program, native.checksum,
            most_bytes=10**6, is_urgent=lambda: True,
        )  # fmt: skip
    assert path.read_bytes() == data
