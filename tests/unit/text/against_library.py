"""A vocabulary read by Legato and by the ``tokenizers`` library: the same ids, whatever the text."""

from __future__ import annotations

import random
from array import array

import corpus
import tokenizers

from legato.text.encoder import Place
from legato.text.vocabulary import Tokenizer

Both = tuple[Tokenizer, tokenizers.Tokenizer]


def check(pair: Both, text: str) -> None:
    ours, library = pair
    for parse_special in (True, False):
        library.encode_special_tokens = not parse_special
        encoding = library.encode(text, add_special_tokens=False)
        encoded = ours._encoder.encode(text, parse_special, Place.START)
        assert encoded.ids == encoding.ids, (text, parse_special)
        special = [
            (id, start, end)
            for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if parse_special and id in ours.special_ids and text[start:end] == ours.token_text(id)
        ]
        assert encoded.controls() == special, (text, parse_special)


def jumbles(ours: Tokenizer, count: int) -> list[str]:
    """Words and letters of the corpus, tokens and names of the vocabulary, spaces: in any order."""
    draw = random.Random(5)
    letters = sorted(set("".join(corpus.ALL_TEXTS)))
    words = [word for text in corpus.ALL_TEXTS for word in text.split(" ")]
    names = [ours.token_text(id) for id in ours.added_ids]
    kinds = (
        lambda: draw.choice(words),
        lambda: draw.choice(letters),
        lambda: " " * draw.randrange(1, 5),
        lambda: draw.choice(names),
        lambda: draw.choice(names)[: draw.randrange(1, 9)],
        lambda: ours.token_text(draw.randrange(ours.vocab_size)),
        lambda: chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))),
    )
    return ["".join(draw.choice(kinds)() for _ in range(30)) for _ in range(count)]


def check_each_token(pair: Both) -> None:
    """What is encoded alone: every way in which the vocabulary's own tokens are joined."""
    ours, library = pair
    texts = [ours.token_text(id) for id in range(ours.vocab_size)]
    library.encode_special_tokens = False
    encodings = library.encode_batch(texts, add_special_tokens=False)
    for text, encoding in zip(texts, encodings, strict=True):
        assert ours.encode(text, add_special_tokens=False) == encoding.ids, text


def check_spelling(ours: Tokenizer) -> None:
    """All tokens at once are spelled as one by one; ids beyond them spell nothing."""
    count = ours.vocab_size + 3
    data, ends = ours.spell_all(count)
    places = [0, *array("i", ends)]
    assert len(places) == count + 1
    for id in range(count):
        assert data[places[id] : places[id + 1]] == ours.token_bytes(id)
    data, ends = ours.spell_all(10)
    assert (len(array("i", ends)), len(data)) == (10, places[10])
