"""Begin the answer yourself: the model goes on from your last character.

Usage: python examples/continue_answer.py [BASE_URL]
"""

import sys

from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key="none")

question = {"role": "user", "content": "Name three colours."}
begun = "1. Red\n2."  # spaces and line breaks at its end count, too

answer = client.chat.completions.create(
    model="smollm2",
    messages=[question, {"role": "assistant", "content": begun}],
    max_tokens=40,
    temperature=0,
)
print(begun + (answer.choices[0].message.content or ""))
