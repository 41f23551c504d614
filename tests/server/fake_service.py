"""The whole server, with an engine whose tokens a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from fake_engine import FakeEngine, Script, says

from legato.config import ServerConfig
from legato.models.info import ModelInfo
from legato.sampling_params import SeedSource
from legato.server.app import build_app
from legato.server.service import Service
from legato.text.template import ChatTemplate
from legato.text.tokenizer import Tokenizer

Build = Callable[..., tuple[httpx.AsyncClient, FakeEngine]]


class FakeServer:
    """``client`` asks it, ``engine`` answers ``script`` (a text: its tokens), whatever is asked."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        script: Script | str,
        *,
        max_model_len: int = 256,
        **config: Any,
    ) -> None:
        if isinstance(script, str):
            script = says(tokenizer.encode(script, add_special_tokens=False))
        info = ModelInfo(
            name="fake",
            architecture="none",
            vocab_size=tokenizer.vocab_size,
            max_model_len=max_model_len,
            num_blocks=64,
            eos_token_ids=tokenizer.eos_token_ids,
        )
        self.engine = FakeEngine(info, script)
        self.service = Service(
            engine=self.engine,
            config=ServerConfig(**config),
            seeds=SeedSource(0),
            model_name="fake",
            tokenizer=tokenizer,
            template=template,
        )
        transport = httpx.ASGITransport(build_app(self.service), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def ask(self, path: str, **fields: Any) -> httpx.Response:
        return post(self.client, path, fields)


def post(client: httpx.AsyncClient, path: str, body: Any, **options: Any) -> httpx.Response:
    return asyncio.run(client.post(path, json=body, **options))
