"""The engine without a server: continue texts, and continue an answer.

Usage: python examples/offline.py [MODEL]
"""

import sys

from legato import LLM, SamplingParams

llm = LLM(sys.argv[1] if len(sys.argv) > 1 else "smollm2", kv_cache_memory=256 * 2**20)
greedy = SamplingParams(temperature=0, max_tokens=24)

prompts = ["The capital of France is", "Water boils at", "One, two, three,"]
for output in llm.generate(prompts, greedy):
    print(output.prompt + output.outputs[0].text)

[answer] = llm.chat(
    [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "According to "},
    ],
    greedy,
)
print("According to " + answer.outputs[0].text)
