"""A GGUF file's tokenizer as the files that transformers reads: every engine then sees the same token ids.

transformers' own conversion is no use here: of SmolLM2's it leaves out the pre-tokenizer that parts digits and
names another token as the end, of Gemma's it makes another algorithm, which spells words letter by letter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from legato.gguf_file import read_metadata
from legato.text.tokenizer import Tokenizer, load_tokenizer
from peers.library_byte_level import library_byte_level
from peers.library_sentencepiece import library_sentencepiece

BYTE_LEVEL: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
SENTENCEPIECE: dict[str, Any] = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def write_tokenizer(source: Path, folder: Path) -> None:
    """Raises ModelError if the file's tokenizer is not known."""
    metadata = read_metadata(source)
    tokenizer = load_tokenizer(source)
    names: list[str] = list(metadata["tokenizer.ggml.tokens"])
    byte_level = metadata["tokenizer.ggml.model"] == "gpt2"
    backend = library_byte_level(metadata) if byte_level else library_sentencepiece(metadata)
    content = json.loads(backend.to_str())
    content["decoder"] = BYTE_LEVEL if byte_level else SENTENCEPIECE
    content["post_processor"] = _beginning(tokenizer)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": names[tokenizer.eos_token_ids[0]],
    }
    if tokenizer.bos_token_id is not None:
        config["bos_token"] = names[tokenizer.bos_token_id]
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    for name, part in (("tokenizer.json", content), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")


def _beginning(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """What is put before a text: the token that the file asks for, if any."""
    ids = tokenizer.encode("")
    if not ids:
        return None
    name = tokenizer.token_text(ids[0])
    text, token = (
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": name, "type_id": 0}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": ids, "tokens": [name]}},
    }
