"""JSON by a prefilled brace: the answer begins inside the object, and a schema holds for the whole.

Usage: python examples/json_from_a_brace.py [BASE_URL]
"""

import json
import sys

from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=base_url, api_key="none")

SCHEMA = {
    "type": "object",
    "properties": {
        "country": {"type": "string"},
        "capital": {"type": "string"},
        "continent": {"enum": ["Africa", "America", "Asia", "Europe", "Oceania"]},
    },
    "required": ["country", "capital", "continent"],
    "additionalProperties": False,
}

for country in ("France", "Japan", "Italy"):
    begun = f'{{"country": "{country}", "capital": "'  # the schema is fed with this first
    answer = client.chat.completions.create(
        model="smollm2",
        messages=[
            {"role": "user", "content": f"Tell me about {country}, as JSON."},
            {"role": "assistant", "content": begun},
        ],
        max_tokens=60,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "country", "schema": SCHEMA, "strict": True},
        },
    )
    whole = begun + (answer.choices[0].message.content or "")
    print(json.loads(whole))
