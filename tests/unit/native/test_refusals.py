"""Nothing that does not fit reaches the kernels: every wrong argument is a ValueError naming it."""

from collections.abc import Callable

import numpy as np
import pytest
from batches import Sequences, sampling
from small_model import SmallModel

from legato import _native as native
from legato.batch import Batch

VOCABULARY = 200


@pytest.fixture(scope="module")
def program() -> native.Program:
    return SmallModel().program(blocks=8, isa=native.supported_isas()[-1], max_tokens=32)


def good_batch() -> Batch:
    ids = [np.arange(20), np.arange(9)]
    return Sequences(ids, VOCABULARY).batch([17, 5])


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def with_entry(array: np.ndarray, index: object, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def refused(program: native.Program, batch: Batch, field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}:"):
        program.run(batch)


BATCH_FAULTS: list[tuple[str, Callable[[Batch], object]]] = [
    ("token_ids", lambda b: with_entry(b.token_ids, 3, VOCABULARY)),
    ("token_ids", lambda b: with_entry(b.token_ids, 3, -1)),
    ("token_ids", lambda b: i32()),
    ("token_ids", lambda b: np.zeros(33, np.int32)),
    ("token_ids", lambda b: b.token_ids.astype(np.int64)),
    ("token_ids", lambda b: b.token_ids.reshape(2, -1)),
    ("token_ids", lambda b: np.repeat(b.token_ids, 2)[::2]),
    ("token_ids", lambda b: b.token_ids.tolist()),
    ("token_ids", lambda b: None),
    ("positions", lambda b: b.positions[:-1]),
    ("positions", lambda b: with_entry(b.positions, 0, -1)),
    ("positions", lambda b: with_entry(b.positions, 4, 3)),
    ("sequences", lambda b: with_entry(b.sequences, 0, 2)),
    ("sequences", lambda b: with_entry(b.sequences, 0, -1)),
    ("sequences", lambda b: with_entry(b.sequences, 0, 1)),
    ("sequences", lambda b: b.sequences[1:]),
    ("slots", lambda b: with_entry(b.slots, 1, 8 * 16)),
    ("slots", lambda b: with_entry(b.slots, 1, -1)),
    ("slots", lambda b: b.slots[1:]),
    ("block_tables", lambda b: with_entry(b.block_tables, (0, 1), 8)),
    ("block_tables", lambda b: with_entry(b.block_tables, (1, 0), -1)),
    ("block_tables", lambda b: b.block_tables[:, :1].copy()),
    ("block_tables", lambda b: b.block_tables[0]),
    ("block_copies", lambda b: np.array([[0, 8]], np.int32)),
    ("block_copies", lambda b: np.array([[-1, 0]], np.int32)),
    ("block_copies", lambda b: np.array([[0, 1, 2]], np.int32)),
    ("logit_rows", lambda b: with_entry(b.logit_rows, -1, 22)),
    ("logit_rows", lambda b: with_entry(b.logit_rows, 0, -1)),
    ("logit_rows", lambda b: with_entry(b.logit_rows, 1, 0)),
]


@pytest.mark.parametrize(("field", "fault"), BATCH_FAULTS)
def test_wrong_batch(program: native.Program, field: str, fault: Callable[[Batch], object]) -> None:
    batch = good_batch()
    setattr(batch, field, fault(batch))
    refused(program, batch, field)


SAMPLING_FAULTS: list[tuple[str, Callable[[np.ndarray], object]]] = [
    *[
        (name, lambda a: a[1:])
        for name in (
            "temperature top_k top_p min_p repetition_penalty presence_penalty frequency_penalty "
            "seed draw_position forced num_logprobs prompt_indptr output_indptr bias_indptr mask_index "
            "fallback_index"
        ).split()
    ],
    ("temperature", lambda a: with_entry(a, 0, -0.5)),
    ("temperature", lambda a: with_entry(a, 0, np.nan)),
    ("temperature", lambda a: with_entry(a, 0, np.inf)),
    ("temperature", lambda a: a.astype(np.float64)),
    ("top_k", lambda a: with_entry(a, 0, -1)),
    ("top_p", lambda a: with_entry(a, 0, np.nan)),
    ("repetition_penalty", lambda a: with_entry(a, 0, 0)),
    ("presence_penalty", lambda a: with_entry(a, 0, np.inf)),
    ("forced", lambda a: with_entry(a, 0, VOCABULARY)),
    ("forced", lambda a: with_entry(a, 0, -2)),
    ("num_logprobs", lambda a: with_entry(a, 0, VOCABULARY + 1)),
    ("num_logprobs", lambda a: with_entry(a, 0, -2)),
    ("mask_index", lambda a: with_entry(a, 0, 0)),
    ("mask_index", lambda a: with_entry(a, 0, -2)),
    ("fallback_index", lambda a: with_entry(a, 0, 0)),
    ("fallback_index", lambda a: with_entry(a, 0, -2)),
    ("prompt_indptr", lambda a: with_entry(a, slice(None), 1)),
    ("prompt_indptr", lambda a: with_entry(a, -1, 1)),
    ("output_indptr", lambda a: with_entry(a, 3, -1)),
    ("prompt_ids", lambda a: None),
    ("masks", lambda a: np.zeros((1, 6), np.uint32)),
]


@pytest.mark.parametrize(("field", "fault"), SAMPLING_FAULTS)
def test_wrong_sampling(
    program: native.Program, field: str, fault: Callable[[np.ndarray], object]
) -> None:
    batch = good_batch()
    setattr(batch.sampling, field, fault(getattr(batch.sampling, field)))
    refused(program, batch, field)


@pytest.mark.parametrize("kind", ["prompt", "output", "bias"])
def test_ids_beyond_the_vocabulary(program: native.Program, kind: str) -> None:
    for value in (-1, VOCABULARY):
        batch = good_batch()
        rows = len(batch.logit_rows)
        setattr(batch.sampling, f"{kind}_indptr", i32(0, *[1] * rows))
        setattr(batch.sampling, f"{kind}_ids", i32(value))
        batch.sampling.bias_values = np.zeros(int(kind == "bias"), np.float32)
        refused(program, batch, f"{kind}_ids")


def test_a_refused_batch_changes_nothing(program: native.Program) -> None:
    before = program.run(good_batch())[5].tolist()
    batch = good_batch()
    batch.slots[0] = -1
    refused(program, batch, "slots")
    assert program.run(good_batch())[5].tolist() == before


def empty_program() -> native.Program:
    return native.Program(isa="scalar", threads=1, max_tokens=4, max_logit_rows=4)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("isa", {"isa": "sse9"}),
        ("threads", {"threads": 0}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_logit_rows", {"max_logit_rows": -1}),
    ],
)
def test_wrong_program(name: str, arguments: dict[str, object]) -> None:
    good = {"isa": "scalar", "threads": 1, "max_tokens": 4, "max_logit_rows": 4}
    with pytest.raises(ValueError, match=rf"^{name}:"):
        native.Program(**(good | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("format", ("Q9", 4, 32, np.zeros(128, np.float32))),
        ("columns", ("Q8_0", 4, 33, np.zeros(136, np.uint8))),
        ("columns", ("Q4_K", 4, 32, np.zeros(136, np.uint8))),
        ("columns", ("F32", 4, 0, b"")),
        ("rows", ("F32", 0, 4, b"")),
        ("data", ("Q8_0", 4, 32, np.zeros(135, np.uint8))),
        ("data", ("F32", 4, 32, np.zeros((32, 4), np.float32).T)),
        ("data", ("F32", 4, 32, 7)),
    ],
)
def test_wrong_matrix(name: str, arguments: tuple[str, int, int, object]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}:"):
        empty_program().matrix(*arguments)


def test_wrong_operators() -> None:
    p = empty_program()
    x, y = p.buffer(32), p.buffer(16)
    w, v = p.vector(np.ones(32, np.float32)), p.vector(np.ones(16, np.float32))
    m = p.matrix("F32", 16, 32, np.zeros((16, 32), np.float32))
    table = p.rope_table(p.vector(np.ones(4, np.float32)), 1.0)
    head = {"offset": 0, "heads": 2, "head_dim": 16}
    rope = {**head, "rotary_dim": 8, "interleaved": False}
    faults: list[tuple[str, Callable[[], object]]] = [
        ("width", lambda: p.buffer(0)),
        ("inverse_frequencies", lambda: p.rope_table(99, 1.0)),
        ("table", lambda: p.embed(5, x)),
        ("out", lambda: p.embed(m, y)),
        ("x", lambda: p.rms_norm(9, w, x, 1e-5)),
        ("weight", lambda: p.rms_norm(x, v, x, 1e-5)),
        ("out", lambda: p.rms_norm(x, w, y, 1e-5)),
        ("x", lambda: p.head_norm(x, v, 1e-5, offset=1, heads=2, head_dim=16)),
        ("weight", lambda: p.head_norm(x, w, 1e-5, **head)),
        ("x", lambda: p.linear(y, m, x)),
        ("out", lambda: p.linear(x, m, y, out_offset=1)),
        ("out", lambda: p.linear(x, m, y, out_offset=-1)),
        ("bias", lambda: p.linear(x, m, y, bias=w)),
        ("matrix", lambda: p.linear(x, 1, y)),
        ("read_outputs", lambda: p.linear(x, m, y, read_outputs=17)),
        ("buffers", lambda: p.gather([x, 9])),
        ("table", lambda: p.rope(x, 1, **rope)),
        ("rotary_dim", lambda: p.rope(x, table, **{**rope, "rotary_dim": 16})),
        ("x", lambda: p.rope(x, table, **{**rope, "heads": 3})),
        ("activation", lambda: p.gated(x, 0, 16, y, "relu")),
        ("x", lambda: p.gated(x, 0, 17, y, "silu")),
        ("y", lambda: p.add(x, y)),
        ("norm_weight", lambda: p.head(x, v, 1e-5, m)),
        ("layers", lambda: p.kv_cache(layers=0, blocks=1, kv_heads=1, head_dim=1, dtype="float16")),
        ("dtype", lambda: p.kv_cache(layers=1, blocks=1, kv_heads=1, head_dim=1, dtype="int4")),
        (
            "head_dim",
            lambda: p.kv_cache(layers=1, blocks=1, kv_heads=1, head_dim=513, dtype="int8"),
        ),
    ]
    for name, fault in faults:
        with pytest.raises(ValueError, match=rf"^{name}:"):
            fault()
    p.gather([x])
    for late in (lambda: p.gather([x]), lambda: p.rope(x, table, **rope)):
        with pytest.raises(ValueError, match="^gather:"):
            late()
    p.head(x, w, 1e-5, m)
    with pytest.raises(ValueError, match="^head:"):
        p.add(x, x)


def test_cache_that_does_not_fit_the_operators() -> None:
    program = SmallModel(layers=1, kv_heads=2).program(blocks=8, isa="scalar", max_tokens=32)
    with pytest.raises(ValueError, match="^kv_cache:"):
        program.kv_cache(layers=1, blocks=8, kv_heads=2, head_dim=16, dtype="float32")
    p = empty_program()
    x = p.buffer(32)
    p.kv_write(1, x, 0, x, 16)
    p.kv_cache(layers=1, blocks=2, kv_heads=1, head_dim=16, dtype="float32")
    batch = Sequences([np.arange(4)], 0).batch([4])
    batch.logit_rows, batch.sampling = i32(), sampling(0, 0)
    with pytest.raises(ValueError, match="^layer:"):
        p.run(batch)
