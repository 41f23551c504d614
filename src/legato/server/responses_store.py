"""Responses that were given, so that later ones can go on from them. In memory, and bounded.

Where there are several API keys, each has its own: with another one, they do not exist.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from legato.server.asker import owner
from legato.server.errors import ResponseNotFoundError
from legato.server.responses_items import Item, text_of_item

MAX_RESPONSES = 1000
MAX_CHARACTERS = 32_000_000
"""Of the responses as JSON, and of what the model read."""


@dataclass(frozen=True)
class StoredResponse:
    response: dict[str, Any]  # as the client got it
    items: list[Item]  # all that the model read, earlier answers included
    conversation: list[Item]  # the same with the answer

    @cached_property
    def characters(self) -> int:
        items = sum(len(text_of_item(item)) + len(item["id"]) for item in self.conversation)
        return items + len(msgspec.json.encode(self.response))


class ResponseStore:
    """The least recently used responses make room for new ones."""

    def __init__(
        self, max_responses: int = MAX_RESPONSES, max_characters: int = MAX_CHARACTERS
    ) -> None:
        self._limits = max_responses, max_characters
        self._stored: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, stored: StoredResponse) -> None:
        place = owner(), stored.response["id"]
        earlier = self._stored.pop(place, None)
        self._characters -= 0 if earlier is None else earlier.characters
        self._stored[place] = stored
        self._characters += stored.characters
        max_responses, max_characters = self._limits
        while len(self._stored) > max_responses or self._characters > max_characters:
            _, oldest = self._stored.popitem(last=False)
            self._characters -= oldest.characters

    def get(self, response_id: str) -> StoredResponse:
        """Raises ResponseNotFoundError."""
        stored = self._stored.get((owner(), response_id))
        if stored is None:
            raise ResponseNotFoundError(f"Response with id '{response_id}' not found.")
        self._stored.move_to_end((owner(), response_id))
        return stored

    def delete(self, response_id: str) -> None:
        """Raises ResponseNotFoundError."""
        self._characters -= self.get(response_id).characters
        del self._stored[owner(), response_id]
