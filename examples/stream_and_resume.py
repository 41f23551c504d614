"""Stream an answer, lose the connection in the middle, and go on where it broke off.

What has arrived is sent back as the beginning of the answer; its keys and values are still in the
server's cache, so almost nothing is computed twice.

Usage: python examples/stream_and_resume.py [BASE_URL]
"""

import sys

from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key="none")
question = {"role": "user", "content": "Tell me a story about a fox."}


def stream(begun: str, characters: int | None = None) -> str:
    """Print and return the answer from ``begun`` on; hang up after so many ``characters``."""
    received = ""
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[question, {"role": "assistant", "content": begun}],
        max_tokens=60,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for event in answer:
        if event.usage and event.usage.prompt_tokens_details:
            cached = event.usage.prompt_tokens_details.cached_tokens
            print(f"\n[{cached} of {event.usage.prompt_tokens} prompt tokens were cached]")
        for choice in event.choices:
            print(choice.delta.content or "", end="", flush=True)
            received += choice.delta.content or ""
        if characters and len(received) >= characters:
            answer.close()  # the server stops computing at once
            break
    return received


story = "Once upon a time, in a forest by the sea,"
print(story, end="")
story += stream(story, characters=80)
print("\n[connection lost]")
story += stream(story)
