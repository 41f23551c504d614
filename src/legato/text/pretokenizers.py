"""How GGUF files' byte-level BPE tokenizers cut text into words before merging.

``tokenizer.ggml.pre`` names the cut. Each recipe below says what the model's own published
``tokenizer.json`` says: a chain of regular expressions (every one cuts what the ones before left),
whether text is normalised first, and whether a word that is a token as a whole skips merging.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class Recipe:
    """One way to prepare text for byte-level BPE."""

    patterns: tuple[str, ...]
    nfc: bool = False  # normalise to NFC first
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges say
    add_bos: bool = False  # when the file does not say


_CONTRACTIONS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2: Final = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # as published
)
_DIGIT: Final = r"\p{N}"


def _cl100k(digits: str, letters: str = r"\p{L}", contractions: str = _CONTRACTIONS + "|") -> str:
    """The family that began with OpenAI's cl100k: words, digit groups, punctuation, newlines."""
    other = letters.strip("[]")
    return (
        rf"{contractions}[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}"
        rf"| ?[^\s{other}\p{{N}}]+[\r\n]*|{_TAIL}"
    )


def _o200k(digits: str, contractions: str = "") -> str:
    """The family of o200k and Tekken: words also break between lower and upper case."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{start}{upper}*{lower}+{contractions}|{start}{upper}+{lower}*{contractions}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
    )


_GPT2_RECIPE: Final = Recipe((_GPT2,))
_DIGITS_GPT2: Final = Recipe((_DIGIT, _GPT2))
_LLAMA3: Final = Recipe((_cl100k(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_QWEN2: Final = Recipe((_cl100k(_DIGIT),), nfc=True)
_O200K: Final = Recipe((_o200k(r"\p{N}{1,3}", _CONTRACTIONS + "?"),))
# Letters of the scripts that DeepSeek's first tokenizer treats as words: alphabets with two cases.
_CASED: Final = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-"
    "\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-"
    "\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-"
    "\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc"
    "\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-"
    "\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-"
    "\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-"
    "\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-"
    "\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-"
    "\U000118df\U0001e900-\U0001e943"
)
_CJK_HANGUL: Final = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK_V3_WORDS: Final = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_TAIL}"
)
_DEEPSEEK_V3: Final = Recipe((r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _DEEPSEEK_V3_WORDS))

_RECIPES: Final[tuple[tuple[str, Recipe], ...]] = (
    ("gpt-2 gpt2 phi-2 exaone4 gigachat a.x-4.0 mellum modern-bert", _GPT2_RECIPE),
    ("jais trillion granite-docling", _GPT2_RECIPE),
    ("mpt olmo", replace(_GPT2_RECIPE, nfc=True)),
    ("smollm starcoder refact codeshell exaone minerva-7b mellum2", _DIGITS_GPT2),
    ("command-r", replace(_DIGITS_GPT2, nfc=True)),
    ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2", _LLAMA3),
    ("dbrx smaug-bpe chatglm-bpe", replace(_LLAMA3, ignore_merges=False, add_bos=False)),
    ("glm4 glm5", replace(_LLAMA3, add_bos=False)),
    ("qwen2 deepseek-r1-qwen megrez kormo f2llmv2", _QWEN2),
    ("stablelm2 hunyuan solar-open grok-2", replace(_QWEN2, nfc=False)),
    ("qwen35", Recipe((_cl100k(_DIGIT, r"[\p{L}\p{M}]"),), nfc=True)),
    ("ufakzeka", Recipe((_cl100k(_DIGIT, contractions=""),))),
    ("tekken", Recipe((_o200k(_DIGIT),), ignore_merges=True, add_bos=True)),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", _O200K),
    ("deepseek-v3 hunyuan-dense joyai-llm", _DEEPSEEK_V3),
    (
        "deepseek-llm",
        Recipe(
            (
                r"[\r\n]",
                rf"\s?[{_CASED}]+",
                r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
                r"\s+$",
                _CJK_HANGUL,
                r"\p{N}+",
            )
        ),
    ),
    ("deepseek-coder", Recipe((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_HANGUL, _DIGIT))),
    ("falcon", Recipe((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"))),
    # What files that do not say (or say "default") are read with everywhere.
    ("default", Recipe((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))),
)

RECIPES: Final[dict[str, Recipe]] = {
    name: recipe for names, recipe in _RECIPES for name in names.split()
}
