"""Hugging Face folders as they are published: sharded, in 16 bits, quantised while loading, wrapped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from stepping import Stepper
from test_gguf_parity import WIDE, relative_error
from test_parity import GEMMA, PROMPT, SIZES, check, reference, reference_logits

from legato import LLM, SamplingParams, models
from legato.config import EngineConfig


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-5), ("bfloat16", 0.02)])
def test_sharded_16_bits(dtype: str, bound: float, tmp_path: Path) -> None:
    oracle = reference("Llama", WIDE).to(getattr(torch, dtype))
    oracle.save_pretrained(tmp_path, max_shard_size="500KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert relative_error(oracle.float(), tmp_path) < bound


# The bounds are what rounding normal weights costs a model of this size; 16 levels cost far more
@pytest.mark.parametrize(("quantization", "bound"), [("int8", 0.04), ("int4", 0.25)])
def test_quantised_on_loading(quantization: str, bound: float, tmp_path: Path) -> None:
    oracle = reference("Llama", WIDE)
    oracle.save_pretrained(tmp_path)
    plain = EngineConfig(model=str(tmp_path), kv_cache_memory=2**26)
    config = EngineConfig(model=str(tmp_path), kv_cache_memory=2**26, quantization=quantization)
    model = models.load(config)
    assert model.info.weight_bytes < 0.3 * models.load(plain).info.weight_bytes
    logits = torch.from_numpy(Stepper(model).feed(PROMPT))
    expected = torch.from_numpy(reference_logits(oracle, PROMPT))
    assert torch.linalg.norm(logits - expected) < bound * torch.linalg.norm(expected)


def test_the_language_model_of_a_multimodal_gemma(tmp_path: Path) -> None:
    text = transformers.Gemma3TextConfig(**(SIZES | GEMMA))
    vision = transformers.SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4
    )
    torch.manual_seed(3)
    oracle = transformers.Gemma3ForConditionalGeneration(config).float().eval()
    oracle.save_pretrained(tmp_path)
    check(oracle, tmp_path)


def test_old_keys_of_the_rotation(tmp_path: Path) -> None:
    """Before transformers 5: rope_theta, rope_scaling and rope_local_base_freq at the top."""
    oracle = reference("Gemma3Text", GEMMA)
    oracle.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["rope_parameters"], config["layer_types"]
    config |= {
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 6,
    }
    file.write_text(json.dumps(config))
    check(oracle, tmp_path)


def test_control_tokens_that_the_model_does_not_have(tmp_path: Path) -> None:
    """The tokenizer of a multimodal family has one for images, the text model no row for it."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: id for id, piece in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<image_soft_token>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    reference("Llama", {"vocab_size": len(vocab)}).save_pretrained(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    llm = LLM(str(tmp_path), kv_cache_memory=2**26)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "the c"}]
    healed = llm.chat(chat, SamplingParams(temperature=0, max_tokens=5))
    assert len(healed[0].outputs[0].token_ids) == 5
