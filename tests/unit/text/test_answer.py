"""From outputs to pieces of an answer."""

from __future__ import annotations

from legato.answer import Answer
from legato.asking import completion_prompt
from legato.request import FinishReason, Output, Request, SamplingParams, TokenLogprobs
from legato.text.vocabulary import Tokenizer


def test_tokens_behind_a_stop_string_are_none_of_the_answers(smollm2: Tokenizer) -> None:
    """A step may bring more of them: neither their ids nor their log-probabilities are told or counted."""
    ids = smollm2.encode(" one STOP two three")
    end = next(i for i in range(len(ids)) if "STOP" in smollm2.decode(ids[:i]))
    prompt = completion_prompt(smollm2, "Hi")
    params = SamplingParams(max_tokens=50, seed=1, stop=["STOP"], logprobs=0)
    request = Request(id="x", prompt_token_ids=prompt.token_ids, params=params)
    answer = Answer(prompt, request, smollm2)
    scores = [TokenLogprobs(token_ids=[id], logprobs=[-1.0], rank=1) for id in ids]
    [piece] = answer.push([Output(request_id="x", token_ids=ids, logprobs=scores)])
    assert (piece.text, piece.finish_reason) == (" one ", FinishReason.STOP)
    assert piece.token_ids == answer.choices[0].token_ids == ids[:end]
    assert piece.logprobs == scores[:end]
    assert answer.completion_tokens == end < len(ids)
