"""Many requests at once share each step of the engine; every answer is what it would be alone.

Usage: python examples/many_at_once.py [BASE_URL]
"""

import asyncio
import sys

from openai import AsyncOpenAI

COUNTRIES = ["France", "Italy", "Spain", "Japan", "Egypt", "Norway", "Peru", "Canada"]


async def capital(client: AsyncOpenAI, country: str) -> str:
    answer = await client.chat.completions.create(
        model="smollm2",
        messages=[
            {"role": "user", "content": f"What is the capital of {country}?"},
            {"role": "assistant", "content": f"The capital of {country} is"},
        ],
        max_tokens=12,
        temperature=0,
    )
    return (answer.choices[0].message.content or "").strip()


async def main() -> None:
    base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        alone = await capital(client, COUNTRIES[0])
        together = await asyncio.gather(*(capital(client, country) for country in COUNTRIES))
    for country, answer in zip(COUNTRIES, together, strict=True):
        print(f"{country}: {answer}")
    assert together[0] == alone


asyncio.run(main())
