"""Models and templates for the text tests. What is absent skips its tests, saying why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trained import sentencepiece_metadata, train_sentencepiece

from legato.errors import ModelError
from legato.text.gguf_tokenizer import build_gguf_tokenizer, load_gguf_tokenizer
from legato.text.template import ChatTemplate
from legato.text.vocabulary import Tokenizer
from legato.weights import hub

REPOSITORY = Path(__file__).parents[3]


def installed_model(name: str) -> Path:
    """The GGUF file of a pulled model."""
    for files in hub.installed():
        if files.name == name:
            return files.path
    pytest.skip(f"SKIPPED LOUDLY: {name} is not installed (run: legato pull {name})")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return installed_model("smollm2")


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    return installed_model("gemma3-270m")


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return load_gguf_tokenizer(smollm2_path)


@pytest.fixture(scope="session")
def gemma3(gemma3_path: Path) -> Tokenizer:
    return load_gguf_tokenizer(gemma3_path)


@pytest.fixture(scope="session")
def space_prefixed() -> Tokenizer:
    """As Llama 2's."""
    model = train_sentencepiece(space_prefix=True)
    metadata = sentencepiece_metadata(model, space_prefix=True)
    return build_gguf_tokenizer(Path("m.gguf"), metadata)


@pytest.fixture(params=["smollm2", "gemma3", "space_prefixed"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def template_folder() -> Path:
    """Published chat templates: LEGATO_TEMPLATES, or ``shared/templates`` beside the repository."""
    default = REPOSITORY.parent / "shared" / "templates"
    folder = Path(os.environ.get("LEGATO_TEMPLATES", default))
    if not any(folder.glob("*.jinja")):
        pytest.skip(f"SKIPPED LOUDLY: no chat templates in {folder} (set LEGATO_TEMPLATES)")
    return folder


@pytest.fixture(scope="session")
def published(template_folder: Path) -> dict[str, ChatTemplate]:
    """The published templates by file name; what is not valid Jinja is left out."""
    found = {}
    for file in sorted(template_folder.glob("*.jinja")):
        source = file.read_text(encoding="utf-8")
        try:
            found[file.name] = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
        except ModelError:
            continue
    return found
