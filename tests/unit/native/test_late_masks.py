"""Masks that other threads make while the step runs: it waits for them just before it samples."""

import time
from collections.abc import Callable
from threading import Thread

import numpy as np
import pytest
from batches import Sequences
from small_model import SmallModel

from legato import _native as native
from legato.batch import Batch

VOCABULARY = 200
WORDS = (VOCABULARY + 31) // 32
DELAY = 0.05  # seconds: much longer than a step of the small model
ALLOWED = 77
READY, FAILED = 1, 2


def program(threads: int = 2, isa: str = native.supported_isas()[-1]) -> native.Program:
    return SmallModel().program(blocks=8, isa=isa, max_tokens=32, threads=threads)


def plain_batch() -> Batch:
    return Sequences([np.arange(20), np.arange(9)], VOCABULARY).batch([17, 5])


def masked_batch() -> Batch:
    """Every row has the one mask, which is still empty and not ready."""
    batch = plain_batch()
    batch.sampling.mask_index[:] = 0
    batch.sampling.masks = np.zeros((1, WORDS), np.uint32)
    batch.sampling.masks_ready = np.zeros(1, np.uint32)
    return batch


def fill(batch: Batch, state: int = READY) -> None:
    batch.sampling.masks[0, ALLOWED // 32] = 1 << ALLOWED % 32
    batch.sampling.masks_ready[0] = state


def run_while(p: native.Program, batch: Batch, work: Callable[[Batch], None]) -> list[int]:
    """The tokens of a step during which a thread does ``work``, after a while."""

    def late() -> None:
        time.sleep(DELAY)
        work(batch)

    thread = Thread(target=late)
    thread.start()
    try:
        return p.run(batch)[0].tolist()
    finally:
        assert batch.sampling.masks_ready[0]
        thread.join()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", native.supported_isas())
def test_a_thread_fills_the_masks_during_the_step(threads: int, isa: str) -> None:
    assert set(run_while(program(threads, isa), masked_batch(), fill)) == {ALLOWED}


def test_the_step_waits_where_it_samples() -> None:
    p = program()
    p.profile()
    run_while(p, masked_batch(), fill)
    seconds = p.profile()
    assert seconds.pop("sample") > DELAY / 2
    assert all(s < DELAY / 2 for s in seconds.values())


def test_masks_that_are_ready_before_the_step() -> None:
    batch = masked_batch()
    fill(batch)
    assert set(program().run(batch)[0].tolist()) == {ALLOWED}


@pytest.mark.parametrize("threads", [1, 2])
def test_masks_that_fail_leave_the_program_as_it_was(threads: int) -> None:
    p = program(threads)
    before = [p.run(plain_batch())[i].tolist() for i in (0, 5)]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="^the masks could not be computed$"):
            run_while(p, masked_batch(), lambda batch: fill(batch, FAILED))
    assert [p.run(plain_batch())[i].tolist() for i in (0, 5)] == before
    assert set(run_while(p, masked_batch(), fill)) == {ALLOWED}
