"""Classify by a begun answer: the model only has to fill in the label, and says how sure it is.

Usage: python examples/classify.py [BASE_URL]
"""

import math
import sys

from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key="none")

BEGUN = "The sentiment of this review is "  # cut before the label: its space is no problem
LABELS = ["positive", "negative"]
REVIEWS = [
    "I love it, my whole family does!",
    "The battery died after two days.",
    "Best purchase of the year.",
    "It broke at once and nobody answers.",
]

for review in REVIEWS:
    question = f"What is the sentiment of this review?\n\n{review}"
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": question}, {"role": "assistant", "content": BEGUN}],
        temperature=0,
        logprobs=True,
        top_logprobs=20,
        # The choices are whole answers: what was begun is a part of them.
        extra_body={"structured_outputs": {"choice": [BEGUN + label for label in LABELS]}},
    )
    [choice] = answer.choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    first = choice.logprobs.content[0]  # its token begins before the cut: " positive"
    found = {top.token.strip(): math.exp(top.logprob) for top in first.top_logprobs}
    chances = [found.get(label, 0.0) for label in LABELS]
    share = max(chances) / sum(chances)
    print(f"{choice.message.content} ({share:.0%}): {review}")
