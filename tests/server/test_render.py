"""``legato render``: what the model would see, without loading it; and settings of the server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from legato.cli import main
from legato.config import ServerConfig
from legato.errors import ConfigError, RequestError
from legato.server.chat_request import RenderRequest, chat_prompt
from legato.text.template import ChatTemplate

SOURCE = (
    "{{ bos_token }}{% for t in tools or [] %}{{ t.name }}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ASKED = [{"role": "user", "content": "Hi"}]
BEGUN = [*ASKED, {"role": "assistant", "content": " So "}]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    file = tmp_path / "template.jinja"
    file.write_text(SOURCE, encoding="utf-8")
    return file


def request(tmp_path: Path, **fields: Any) -> str:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"messages": BEGUN, **fields}), encoding="utf-8")
    return str(file)


def test_with_a_template_alone(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = request(tmp_path, tools=[{"name": "f"}], model="any", temperature=0)
    assert main(["render", source, "--template", str(template)]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply == {"prompt": "f[user]Hi[assistant] So ", "seam": 20}


def test_from_standard_input_with_a_model(
    smollm2_prompt: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"messages": BEGUN}).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))
    assert main(["render", "--model", "smollm2"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["prompt"].endswith(smollm2_prompt)
    assert reply["prompt"][reply["seam"] :] == " So "
    assert reply["prompt_token_ids"][0] == 1


@pytest.fixture
def smollm2_prompt(model_path: Path) -> str:
    return "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n So "


def test_no_library_of_the_server_or_the_engine_is_loaded(template: Path, tmp_path: Path) -> None:
    """What makes it answer at once."""
    code = (
        "import sys; from legato.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('starlette', 'uvicorn', 'numpy', 'huggingface_hub', 'legato._native') "
        "if m in sys.modules])"
    )
    arguments = ["render", request(tmp_path), "--template", str(template)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1] == "[]"


@pytest.mark.parametrize(
    ("flags", "fields", "words"),
    [
        ([], {}, "--model or --template"),
        (["--template", "absent.jinja"], {}, "absent.jinja"),
        (["--template", "TEMPLATE", "--assistant-prefill", "reject"], {}, "only when asked to"),
        (["--template", "TEMPLATE"], {"continue_final_message": 3}, "continue_final_message"),
        (["--template", "TEMPLATE"], {"chat_template": "x"}, "--trust-request-chat-template"),
    ],
)
def test_what_is_wrong_is_one_line(
    flags: list[str],
    fields: dict[str, Any],
    words: str,
    template: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [str(template) if flag == "TEMPLATE" else flag for flag in flags]
    assert main(["render", request(tmp_path, **fields), *flags]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_too_deep_a_request_is_one_line(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep.json"
    file.write_text("[" * 100_000, encoding="utf-8")
    assert main(["render", str(file), "--template", str(template)]) == 1
    said = capsys.readouterr().err
    assert "the request is not JSON" in said and said.count("\n") == 1


def prompt(policy: str = "continue", trusted: bool = False, **fields: Any) -> str:
    asked = RenderRequest(**{"messages": BEGUN, **fields})
    template = ChatTemplate(SOURCE, bos_token="<s>", eos_token="</s>")
    return chat_prompt(
        asked, template, None, assistant_prefill=policy, trusts_template=trusted
    ).text


def test_the_servers_policy_holds_where_the_request_says_nothing() -> None:
    new_turn = "<s>[user]Hi</s>[assistant]So</s>[assistant]"
    continued = "<s>[user]Hi</s>[assistant] So "
    assert prompt() == continued
    assert prompt("new-turn") == new_turn
    assert prompt("new-turn", continue_final_message=True) == continued
    with pytest.raises(RequestError) as caught:
        prompt("reject")
    assert caught.value.field == "messages"
    assert prompt("reject", add_generation_prompt=True) == new_turn
    assert prompt("reject", messages=ASKED) == "<s>[user]Hi</s>[assistant]"
    with pytest.raises(ConfigError):
        ServerConfig(assistant_prefill="perhaps")


def test_a_template_in_the_request_has_the_models_tokens() -> None:
    own = "{{ bos_token }}{{ messages | length }}"
    assert prompt(trusted=True, chat_template=own, messages=ASKED) == "<s>1"
    for broken in ("{% if %}", "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}"):
        with pytest.raises(RequestError):
            prompt(trusted=True, chat_template=broken)
