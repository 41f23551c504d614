"""Stay in character: every answer is begun in the character's voice, and goes on in it.

Usage: python examples/in_character.py [BASE_URL]
"""

import sys

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key="none")

BEGUN = "Yo ho ho! I "  # cut after a space: the next word comes as if it had not been
talk: list[ChatCompletionMessageParam] = [{"role": "system", "content": "You are a pirate."}]

for question in ("Who are you?", "Where do you live?", "What do you like best?"):
    talk.append({"role": "user", "content": question})
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[*talk, {"role": "assistant", "content": BEGUN}],
        max_tokens=40,
        temperature=0,
        stop=["."],
        extra_body={"include_stop_str_in_output": True},
    )
    said = BEGUN + (answer.choices[0].message.content or "")
    talk.append({"role": "assistant", "content": said})
    print(f"{question}\n  {said}")
