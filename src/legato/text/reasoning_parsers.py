"""Which block ``--reasoning-parser`` means by its names, which are vLLM's and SGLang's.

vLLM's parsers for one block differ in how they guess whether an answer begins inside it; here that
is read off the prompt, so many names mean the same.
"""

from __future__ import annotations

from typing import Final

from legato.text.reasoning import BLOCKS, DEFAULT, HARMONY, Block

_MARKED: Final = {block.opening: block for block in BLOCKS}
_COHERE: Final = _MARKED["<|START_THINKING|>"]
_GRANITE: Final = Block("Here is my thought process:", "Here is my response:")
_KIMI_VL: Final = Block("◁think▷", "◁/think▷")

PARSERS: Final[dict[str, Block]] = {
    "cohere_command3": _COHERE,
    "cohere_command4": _COHERE,
    "deepseek_r1": DEFAULT,
    "deepseek_v3": DEFAULT,
    "deepseek_v4": DEFAULT,
    "ernie45": DEFAULT._replace(answer=("<response>", "</response>")),
    "gemma4": _MARKED["<|channel>thought"],
    "glm45": DEFAULT,
    "glm47": DEFAULT,
    "gpt_oss": HARMONY,
    "granite": _GRANITE,
    "holo2": DEFAULT,
    "hunyuan_a13b": DEFAULT._replace(answer=("<answer>", "</answer>")),
    "hy_v3": DEFAULT,
    "kimi": _KIMI_VL,
    "kimi_k2": DEFAULT,
    "mimo": DEFAULT,
    "minimax_m2": DEFAULT,
    "minimax_m3": _MARKED["<mm:think>"],
    "mistral": _MARKED["[THINK]"],
    "nemotron_v3": DEFAULT,
    "olmo3": DEFAULT,
    "openai_gptoss": HARMONY,
    "poolside_v1": DEFAULT,
    "qwen3": DEFAULT,
    "seed_oss": _MARKED["<seed:think>"],
    "smollm3": DEFAULT,
    "step3": DEFAULT,
    "step3p5": DEFAULT,
}
