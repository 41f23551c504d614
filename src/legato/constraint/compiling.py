"""The door to ``legato.constraint.grammar``: ``llguidance``, 7 MB and 60 ms in each process, is loaded
with the first grammar, and most processes never see one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from legato.batch import U32
from legato.constraint.tokens import TokenTable

if TYPE_CHECKING:
    from legato.constraint.grammar import Grammar


def compile_grammar(source: str, table: TokenTable, field: str | None = None) -> Grammar:
    """``grammar.Grammar.compile``."""
    from legato.constraint import grammar

    return grammar.Grammar.compile(source, table, field)


def fill_masks(
    jobs: Sequence[tuple[Grammar, int, Sequence[int]]], masks: U32
) -> list[tuple[int, str]]:
    """``grammar.fill_masks``."""
    from legato.constraint import grammar

    return grammar.fill_masks(jobs, masks)
