"""A small model with random weights and Qwen's own vocabulary of 151,936 tokens, as a GGUF file.

    python benchmarks/big_vocabulary.py qwen.gguf
    python benchmarks/floor.py --alone --part warm_start --model qwen.gguf

What such a vocabulary costs at the start, and in memory. It comes out of the package `dashscope`, which holds it as
ranks of byte strings (tiktoken's form): a token is made of the two tokens that are left when all better ones are joined.
"""

from __future__ import annotations

import argparse
import base64
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import gguf
import numpy as np

from legato.text.gguf_keys import TokenType
from legato.text.spelling import BYTE_ALPHABET

VOCABULARY = "dashscope/resources/qwen.tiktoken"
NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIZE = 151_936
HIDDEN, INNER, LAYERS, HEADS, HEAD = 128, 512, 2, 4, 32
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Ranks = dict[bytes, int]


def ranks() -> Ranks:
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "dashscope"]
        subprocess.run([*command, "--dest", folder], check=True)
        with ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            lines = wheel.read(VOCABULARY).splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}


def parts(token: bytes, known: Ranks) -> list[bytes]:
    """The two tokens that ``token`` is made of."""
    found = [token[i : i + 1] for i in range(len(token))]
    while len(found) > 2:
        joined = [known.get(left + right, SIZE) for left, right in pairwise(found)]
        best = joined.index(min(joined))
        found[best : best + 2] = [found[best] + found[best + 1]]
    return found


def tokenizer(writer: gguf.GGUFWriter) -> None:
    letters = {byte: letter for letter, byte in BYTE_ALPHABET.items()}
    known = ranks()
    ordered = sorted(known, key=known.__getitem__)

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    tokens = [spelled(token) for token in ordered] + [*NAMES]
    types = [TokenType.NORMAL] * len(ordered) + [TokenType.CONTROL] * len(NAMES)
    unused = range(len(tokens), SIZE)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, *(f"[PAD{id}]" for id in unused)])
    writer.add_token_types([*types, *(TokenType.UNUSED for _ in unused)])
    writer.add_token_merges(
        [" ".join(map(spelled, parts(token, known))) for token in ordered if len(token) > 1]
    )
    writer.add_bos_token_id(tokens.index(NAMES[0]))
    writer.add_eos_token_id(tokens.index(NAMES[2]))
    writer.add_chat_template(TEMPLATE)


def weights(writer: gguf.GGUFWriter) -> None:
    draw = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType.Q8_0

    def matrix(name: str, rows: int, columns: int) -> None:
        values = (draw.standard_normal((rows, columns)) * 0.02).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    def vector(name: str, value: float, count: int = HIDDEN) -> None:
        writer.add_tensor(name, np.full(count, value, np.float32))

    matrix("token_embd", SIZE, HIDDEN)
    vector("output_norm.weight", 1)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", 1)
        vector(f"{block}.ffn_norm.weight", 1)
        for part in ("q", "k", "v"):
            matrix(f"{block}.attn_{part}", HEADS * HEAD, HIDDEN)
            vector(f"{block}.attn_{part}.bias", 0)
        matrix(f"{block}.attn_output", HIDDEN, HEADS * HEAD)
        matrix(f"{block}.ffn_gate", INNER, HIDDEN)
        matrix(f"{block}.ffn_up", INNER, HIDDEN)
        matrix(f"{block}.ffn_down", HIDDEN, INNER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="where the model is written")
    writer = gguf.GGUFWriter(parser.parse_args().file, "qwen2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(SIZE)
    tokenizer(writer)
    weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
