"""Values that must be refused by name, and how defaults and seeds come about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from legato.errors import RequestError
from legato.request import SamplingParams
from legato.sampling_params import SeedSource, from_fields, unsound, validate

VOCABULARY = 100


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("temperature", -0.1, "at least 0"),
        ("temperature", math.nan, "at least 0"),
        ("temperature", math.inf, "at least 0"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("top_p", math.nan, "above 0 and at most 1"),
        ("min_p", 1.5, "at least 0 and at most 1"),
        ("top_k", -2, "at least -1"),
        ("repetition_penalty", 0.0, "at least 1e-06"),
        ("presence_penalty", 2.1, "at least -2 and at most 2"),
        ("frequency_penalty", -2.1, "at least -2 and at most 2"),
        ("n", 0, "at least 1"),
        ("n", 129, "at most 128"),
        ("max_tokens", 0, "at least 1"),
        ("min_tokens", -1, "at least 0"),
        ("logprobs", 21, "at most 20"),
        ("prompt_logprobs", -1, "at least 0"),
        ("seed", 2**63, "at most"),
        ("logit_bias", {3: 100.5}, "at most 100"),
        ("logit_bias", {3: math.nan}, "at least -100"),
        ("logit_bias", {VOCABULARY: 1.0}, "0 to 99"),
        ("allowed_token_ids", [], "empty"),
        ("allowed_token_ids", [-1], "0 to 99"),
        ("stop_token_ids", [100], "0 to 99"),
        ("stop", ["a", ""], "empty"),
        ("stop", [7], "expected `str`"),
        ("temperature", "hot", "expected `float`"),
        ("max_tokens", 1.5, "expected `int"),
    ],
)
def test_out_of_range_names_field_and_limit(field: str, value: object, limit: str) -> None:
    with pytest.raises(RequestError) as caught:
        validate(SamplingParams(**{field: value}), VOCABULARY)
    assert caught.value.field == field
    assert field in str(caught.value) and limit in str(caught.value)


def test_min_tokens_may_not_exceed_max_tokens() -> None:
    with pytest.raises(RequestError, match=r"min_tokens must be at most max_tokens \(3\), got 4"):
        validate(SamplingParams(min_tokens=4, max_tokens=3))


def test_values_become_what_the_engine_expects() -> None:
    params = validate(SamplingParams(temperature=1e-7, top_k=-1, seed=-1, stop="END"))  # type: ignore[arg-type]
    assert (params.temperature, params.top_k, params.stop) == (0.0, 0, ["END"])
    assert params.seed == 2**63 - 1


def test_none_is_what_a_request_has_that_is_silent() -> None:
    names = SamplingParams.__struct_fields__
    assert validate(SamplingParams(**dict.fromkeys(names))) == validate(SamplingParams())


def test_numbers_of_numpy() -> None:
    fields: dict[str, Any] = {
        "temperature": np.float64(0.7),
        "top_p": np.float32(0.5),
        "max_tokens": np.int64(3),
        "stop_token_ids": [np.int32(7)],
        "logit_bias": {np.int64(5): np.float32(2)},
    }
    same = SamplingParams(
        temperature=0.7, top_p=0.5, max_tokens=3, stop_token_ids=[7], logit_bias={5: 2.0}
    )
    assert validate(SamplingParams(**fields), VOCABULARY) == validate(same, VOCABULARY)
    wrong: list[Any] = [np.int64(-1), np.float64(3), np.bool_(True), True]
    for value in wrong:
        with pytest.raises(RequestError) as refused:
            validate(SamplingParams(max_tokens=value))
        assert refused.value.field == "max_tokens"


def test_request_before_model_before_ours() -> None:
    preferences = {"temperature": 0.2, "top_k": 40, "do_sample": True, "bos_token_id": 1}
    params = from_fields({"temperature": 0.9, "top_p": None, "stream": True}, preferences)
    assert (params.temperature, params.top_k, params.top_p) == (0.9, 40, 1.0)
    assert from_fields({"temperature": 0.0}, preferences).temperature == 0.0


def test_preferences_that_no_request_could_have_count_for_nothing() -> None:
    """Else every request that is silent about them would be at fault."""
    preferences = {
        "temperature": -0.5,
        "top_p": 0,
        "top_k": 2.5,
        "min_p": "high",
        "repetition_penalty": 1.1,
    }
    params = validate(from_fields({}, preferences))
    assert params == validate(SamplingParams(repetition_penalty=1.1))
    told = unsound(preferences | {"do_sample": 7})
    assert [line.split()[2] for line in told] == ["temperature", "top_p", "top_k", "min_p"]
    assert "above 0 and at most 1" in told[1]
    assert from_fields({}, {"top_k": -1}).top_k == -1


def test_seeds_repeat_as_a_sequence() -> None:
    first, again, other = SeedSource(0), SeedSource(0), SeedSource(1)
    drawn = [first.draw() for _ in range(100)]
    assert drawn == [again.draw() for _ in range(100)]
    assert len(set(drawn)) == 100 and all(0 <= seed < 2**63 for seed in drawn)
    assert not set(drawn) & {other.draw() for _ in range(100)}
    assert SeedSource(-1).draw() != SeedSource(-1).draw()
