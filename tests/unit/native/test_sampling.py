"""Sampling through the binding: tokens, log-probabilities and ranks of logits chosen by the test.

The logits are the head's bias (its matrix is zero), the same for every row of a batch. The oracle is
written with torch from vLLM's description: mask, bias, penalties, temperature, min-p, top-k, top-p.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from batches import sampling

from legato import _native as native
from legato.batch import Batch, SamplingBatch, StepResult

VOCABULARY = 300
ROWS = 4000


def step(
    logits: np.ndarray, rows: SamplingBatch, isa: str = native.supported_isas()[-1]
) -> StepResult:
    program, batch = made(logits, rows, isa)
    return StepResult(*program.run(batch))


def made(
    logits: np.ndarray, rows: SamplingBatch, isa: str = native.supported_isas()[-1]
) -> tuple[native.Program, Batch]:
    count = len(rows.temperature)
    program = native.Program(isa=isa, threads=2, max_tokens=count, max_logit_rows=count)
    x = program.buffer(32)
    ones = np.ones((1, 32), np.float32)
    program.embed(program.matrix("F32", 1, 32, ones), x)
    head = program.matrix("F32", len(logits), 32, np.zeros((len(logits), 32), np.float32))
    program.head(x, program.vector(ones[0]), 1e-6, head, bias=program.vector(logits))
    program.kv_cache(layers=1, blocks=1, kv_heads=1, head_dim=16, dtype="float16")
    zeros = np.zeros(count, np.int32)
    batch = Batch(
        token_ids=zeros,
        positions=zeros,
        sequences=np.arange(count, dtype=np.int32),
        slots=zeros,
        block_tables=np.zeros((count, 1), np.int32),
        block_copies=np.zeros((0, 2), np.int32),
        logit_rows=np.arange(count, dtype=np.int32),
        sampling=rows,
    )
    return program, batch


def masks(*allowed: Sequence[int]) -> np.ndarray:
    """One row of ``SamplingBatch.masks`` for each."""
    bits = np.zeros((len(allowed), (VOCABULARY + 31) // 32 * 32), bool)
    for row, tokens in zip(bits, allowed, strict=True):
        row[list(tokens)] = True
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


@dataclass
class Setting:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    bias: dict[int, float] = field(default_factory=dict)
    allowed: Sequence[int] | None = None
    fallback: Sequence[int] | None = None

    def rows(self, count: int) -> SamplingBatch:
        def spread(values: Sequence[float], dtype: type) -> tuple[np.ndarray, np.ndarray]:
            indptr = np.arange(count + 1, dtype=np.int32) * len(values)
            return indptr, np.tile(np.asarray(values, dtype), count)

        fields: dict[str, object] = {}
        fields["prompt_indptr"], fields["prompt_ids"] = spread(self.prompt, np.int32)
        fields["output_indptr"], fields["output_ids"] = spread(self.output, np.int32)
        fields["bias_indptr"], fields["bias_ids"] = spread(list(self.bias), np.int32)
        fields["bias_values"] = spread(list(self.bias.values()), np.float32)[1]
        if self.allowed is not None:
            fields["masks"] = masks(self.allowed, self.fallback or ())
            fields["mask_index"] = 0
            fields["fallback_index"] = -1 if self.fallback is None else 1
        return sampling(
            count,
            VOCABULARY,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition,
            presence_penalty=self.presence,
            frequency_penalty=self.frequency,
            seed=np.arange(count, dtype=np.uint64) // 50,
            draw_position=np.arange(count, dtype=np.uint64) % 50,
            **fields,
        )

    def probabilities(self, logits: np.ndarray) -> torch.Tensor:
        if self.fallback is None:
            return self._of_one_draw(logits)
        first = replace(self, allowed=None, fallback=None)._of_one_draw(logits)
        kept = torch.zeros_like(first)
        kept[list(self.allowed or ())] = first[list(self.allowed or ())]
        second = replace(self, allowed=self.fallback, fallback=None)._of_one_draw(logits)
        return kept + (1 - kept.sum()) * second

    def _of_one_draw(self, logits: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(logits).double()
        if self.allowed is not None:
            hidden = torch.ones(VOCABULARY, dtype=torch.bool)
            hidden[list(self.allowed)] = False
            x = x.masked_fill(hidden, -torch.inf)
        for token, value in self.bias.items():
            x[token] += value
        counts = torch.bincount(
            torch.tensor([*self.output], dtype=torch.long), minlength=VOCABULARY
        )
        seen = torch.zeros(VOCABULARY, dtype=torch.bool)
        seen[[*self.prompt, *self.output]] = True
        x = torch.where(seen, torch.where(x > 0, x / self.repetition, x * self.repetition), x)
        x = x - self.frequency * counts - self.presence * (counts > 0)
        x = x / self.temperature
        p = x.softmax(0)
        x = x.masked_fill(p < self.min_p * p.max(), -torch.inf)
        if self.top_k > 0:
            x = x.masked_fill(x < x.topk(min(self.top_k, VOCABULARY)).values[-1], -torch.inf)
        p, order = x.softmax(0).sort(descending=True)
        p[p.cumsum(0) - p >= self.top_p] = 0
        return torch.zeros(VOCABULARY, dtype=torch.double).scatter(0, order, p / p.sum())


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(4).normal(0, 2.5, VOCABULARY).astype(np.float32)


SETTINGS = [
    Setting(),
    Setting(temperature=0.6),
    Setting(temperature=1.4, top_p=0.9),
    Setting(top_k=7),
    Setting(min_p=0.08),
    Setting(temperature=0.9, top_k=40, top_p=0.85, min_p=0.01),
    Setting(top_p=0.9, min_p=0.03),
    Setting(temperature=1.2, repetition=1.3, prompt=[1, 5, 5, 90], output=[7, 7, 200]),
    Setting(presence=0.8, frequency=0.4, output=[7, 7, 200, 7, 12]),
    Setting(bias={3: 2.0, 10: -3.0, 44: -np.inf}, top_p=0.95),
    Setting(allowed=range(100, 160), top_k=30),
    Setting(allowed=[17], temperature=2.0),
]

SOFT = [
    Setting(allowed=range(150), fallback=range(150)),
    Setting(allowed=range(100, 250), fallback=range(40, 160), temperature=1.5),
    Setting(allowed=range(150), fallback=range(100, 300), top_k=9, top_p=0.9),
    Setting(allowed=range(150), fallback=[17, 18, 19], min_p=0.02, bias={18: -np.inf}),
    Setting(allowed=range(150), fallback=range(150), presence=0.8, output=[7, 7, 20]),
]


@pytest.mark.parametrize("setting", [*SETTINGS, *SOFT], ids=str)
def test_tokens_follow_the_distribution(logits: np.ndarray, setting: Setting) -> None:
    tokens = step(logits, setting.rows(ROWS)).token_ids
    assert_distributed(tokens, setting.probabilities(logits).numpy())


def assert_distributed(tokens: np.ndarray, probabilities: np.ndarray) -> None:
    """Chi-square, six standard deviations allowed; rare tokens are one cell."""
    expected = probabilities * len(tokens)
    seen = np.bincount(tokens, minlength=VOCABULARY)
    assert not seen[expected == 0].any()
    common = expected >= 8
    cells = np.append(expected[common], expected[~common].sum())
    counts = np.append(seen[common], seen[~common].sum())
    used = cells > 0
    chi_square = ((counts[used] - cells[used]) ** 2 / cells[used]).sum()
    freedom = max(used.sum() - 1, 1)
    assert chi_square < freedom + 6 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("setting", SOFT, ids=str)
def test_a_soft_mask_redraws_only_what_it_does_not_allow(
    logits: np.ndarray, setting: Setting
) -> None:
    unmasked = replace(setting, allowed=None, fallback=None)
    free, soft = (step(logits, s.rows(ROWS)).token_ids for s in (unmasked, setting))
    kept = np.isin(free, list(setting.allowed or ()))
    assert 0.1 < kept.mean() < 0.9
    assert (soft[kept] == free[kept]).all()
    second = replace(setting, allowed=setting.fallback, fallback=None)
    assert_distributed(soft[~kept], second.probabilities(logits).numpy())


def test_a_soft_mask_of_a_greedy_row(logits: np.ndarray) -> None:
    best = np.argsort(-logits)
    allowed: list[Sequence[int]] = [best[:3].tolist(), best[1:].tolist(), best[4:6].tolist(), []]
    rows = sampling(
        4,
        VOCABULARY,
        num_logprobs=0,
        mask_index=np.array([0, 1, 1, 1], np.int32),
        fallback_index=np.array([1, 2, 3, -1], np.int32),
        masks=masks(*allowed),
    )
    result = step(logits, rows)
    assert result.token_ids.tolist() == [best[0], best[4], -1, best[1]]
    assert result.ranks.tolist() == [1, 5, 0, 2]
    exact = torch.from_numpy(logits).double().log_softmax(0).numpy()
    chosen = [0, 1, 3]
    np.testing.assert_allclose(result.logprobs[chosen], exact[result.token_ids[chosen]], rtol=2e-6)


@pytest.mark.parametrize("isa", native.supported_isas())
def test_log_probabilities_and_ranks(logits: np.ndarray, isa: str) -> None:
    exact = torch.from_numpy(logits).double().log_softmax(0).numpy()
    order = np.argsort(-logits, kind="stable")
    forced = np.arange(VOCABULARY, dtype=np.int32)
    result = step(logits, sampling(VOCABULARY, VOCABULARY, forced=forced, num_logprobs=6), isa)
    assert (result.token_ids == forced).all()
    np.testing.assert_allclose(result.logprobs, exact, rtol=2e-6)
    assert (result.ranks[order] == np.arange(1, VOCABULARY + 1)).all()
    assert (result.top_ids == order[:6]).all()
    np.testing.assert_allclose(
        result.top_logprobs, np.tile(exact[order[:6]], (VOCABULARY, 1)), rtol=2e-6
    )


@pytest.mark.parametrize("setting", [*SETTINGS[:7], *SOFT], ids=str)
def test_a_row_draws_the_same_token_in_any_company_on_any_instruction_set(
    logits: np.ndarray, setting: Setting
) -> None:
    rows = setting.rows(64)
    tokens = step(logits, rows).token_ids
    rows.seed, rows.draw_position = rows.seed[::-1].copy(), rows.draw_position[::-1].copy()
    for isa in native.supported_isas():
        assert (step(logits, rows, isa).token_ids[::-1] == tokens).all()


def test_greedy_takes_the_lowest_id_of_equals(logits: np.ndarray) -> None:
    tied = logits.copy()
    tied[[40, 77, 250]] = tied.max() + 1
    assert (step(tied, sampling(3, VOCABULARY)).token_ids == 40).all()
    assert (step(tied, Setting(temperature=0, bias={40: -1.0}).rows(2)).token_ids == 77).all()


def test_equal_logits_at_the_border_of_top_k_leave_the_lower_ids() -> None:
    flat = np.zeros(VOCABULARY, np.float32)
    assert set(step(flat, Setting(top_k=3).rows(200)).token_ids) == {0, 1, 2}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_logits_give_no_token(logits: np.ndarray, value: float) -> None:
    broken = logits.copy()
    broken[123] = value
    for setting in SETTINGS[:7]:
        assert (step(broken, setting.rows(2)).token_ids == -1).all()


def test_rows_that_are_drawn_again_are_those_of_a_soft_mask(logits: np.ndarray) -> None:
    """A step without masks, whose refused rows are drawn again under them."""
    setting = Setting(allowed=range(0, 300, 3), fallback=range(0, 300, 6))
    wanted = step(logits, replace(setting).rows(ROWS))
    rows = replace(setting, allowed=None, fallback=None).rows(ROWS)
    rows.num_logprobs[:] = 2
    program, batch = made(logits, rows)
    first = StepResult(*program.run(batch))
    refused = np.flatnonzero(first.token_ids % 3).astype(np.int32)
    masked = setting.rows(ROWS)
    rows.masks, rows.mask_index = masked.masks, masked.mask_index
    rows.fallback_index = masked.fallback_index
    again = StepResult(*program.redraw(batch, refused))
    others = np.setdiff1d(np.arange(ROWS), refused)
    assert (again.token_ids[refused] == wanted.token_ids[refused]).all()
    assert (first.token_ids[others] == wanted.token_ids[others]).all()
    assert (again.token_ids[others] == -1).all()
    exact = torch.from_numpy(logits).double().log_softmax(0).numpy()
    assert np.allclose(again.logprobs[refused], exact[again.token_ids[refused]], atol=1e-5)
    assert (again.top_ids[refused] == first.top_ids[refused]).all()


def test_only_rows_of_the_last_step_are_drawn_again(logits: np.ndarray) -> None:
    program, batch = made(logits, Setting().rows(4))
    with pytest.raises(ValueError, match="not that of the last step"):
        program.redraw(batch, np.zeros(1, np.int32))
    program.run(batch)
    for row in (-1, 4):
        with pytest.raises(ValueError, match=f"rows: entry 0 is {row}"):
            program.redraw(batch, np.array([row], np.int32))


def test_a_top_p_just_below_one_keeps_every_token_of_its_own() -> None:
    """Sums in two orders differ more than it leaves out; whatever a row before left must not be drawn."""
    p = np.float32(0.99999994)
    for number in range(40):
        draw = np.random.default_rng(number)
        logits = draw.standard_normal(1025).astype(np.float32)
        for temperature in (2.0, 3.0, 10.0):
            alone = sampling(1, 1025, temperature=temperature, top_p=p)
            beside = sampling(3, 1025, temperature=temperature)
            beside.top_k[:2], beside.top_p[2] = 1, p
            beside.seed[2], beside.draw_position[2] = alone.seed[0], alone.draw_position[0]
            token = step(logits, alone).token_ids[0]
            assert 0 <= token == step(logits, beside).token_ids[2]
