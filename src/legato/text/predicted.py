"""A text of which much is expected to come (OpenAI's Predicted Outputs), as tokens."""

from __future__ import annotations

from legato.errors import RequestError
from legato.text.vocabulary import Tokenizer


def prediction_ids(text: str, tokenizer: Tokenizer, context: int) -> list[int]:
    """The tokens of a predicted text. Raises RequestError if they are more than ``context``."""
    if not text:
        return []
    ids = tokenizer.encode(text, add_special_tokens=False, parse_special=False)
    if len(ids) > context:
        raise RequestError(
            f"the prediction has {len(ids)} tokens; the model's context length is {context}",
            "prediction",
        )
    return ids
