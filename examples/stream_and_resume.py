"""Lose the connection in the middle of a streamed answer, go on, and get what would have come.

What has arrived is sent back as the beginning of the answer, with the same seed. The whole equals
the answer that nobody interrupted, although its words are drawn at random.

Usage: python examples/stream_and_resume.py [BASE_URL]
"""

import sys

from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key="none")


def stream(begun: str = "", lost_after: int | None = None) -> tuple[str, int]:
    """Go on from ``begun``; returns what came, and how many tokens the server was spared."""
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[
            {"role": "user", "content": "Why is the sky blue, in one sentence?"},
            {"role": "assistant", "content": begun},
        ],
        temperature=0.8,
        seed=7,
        stream=True,
        stream_options={"include_usage": True},
    )
    received, cached = "", 0
    for event in answer:
        if event.usage and event.usage.prompt_tokens_details:
            cached = event.usage.prompt_tokens_details.cached_tokens or 0
        for choice in event.choices:
            received += choice.delta.content or ""
        if lost_after is not None and len(received) >= lost_after:
            answer.response.close()  # the server notices and stops computing
            break
    return received, cached


first, _ = stream(lost_after=100)
rest, cached = stream(first)
whole, _ = stream()
print(f"{first}\n[connection lost; {cached} tokens were still cached]\n{rest}")
assert first + rest == whole
print("[and so goes the uninterrupted answer, to the letter]")
