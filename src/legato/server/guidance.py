"""What steers an answer besides its sampling parameters: healing, thoughts, a grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from legato.answer import Guidance
from legato.text.parting import parting_of

if TYPE_CHECKING:
    from legato.server.service import Service
    from legato.text.continuation import Prompt


class GuidanceFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The same in every protocol."""

    token_healing: bool = True


def guidance_of(fields: GuidanceFields, prompt: Prompt, service: Service) -> Guidance:
    """Raises RequestError naming the field."""
    return Guidance(
        token_healing=fields.token_healing,
        parting=parting_of(prompt, service.config.reasoning_parser, service.text),
    )
