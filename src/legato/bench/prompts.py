"""Prompts of an exact number of tokens, all different, the same for every engine.

They are plain English words in random order: valid text, of which no engine has a cached prefix.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from legato.errors import RequestError

Encode = Callable[[str], list[int]]

TEXT = """
    after again air all along also answer any ask away back bell better bird black book both bring
    build but call came city clear close cold come corn could country cut dark day deep did door
    down draw each early earth eat end even every eye face fall far farm father feel few field find
    fire first fish five follow food form found four free friend from full game garden gave give
    gold good great green ground group grow half hand hard have head hear heat help here high hold
    home horse hot hour house how hundred idea iron island just keep kind king knew know land large
    last late laugh learn leave left less letter life light like line list little live long look
    made main make many map mark mean measure might mile mind money moon more morning most mother
    mountain move much music must name near never new next night nine north note number ocean off
    often old once one only open order other over own page paint paper part past people piece place
    plain plan plant play point poor port power press pull put question quick rain ran reach read
    ready real red rest right ring river road rock room round rule run said same saw say school sea
    second see seem sell send serve set seven several shape she ship short should show side simple
    sing six size sleep slow small snow some song soon sound south space spell stand star start
    state stay step still stone stop story street strong study such summer sun sure table take talk
    teach tell ten than that their them then there these thing think this those thought thousand
    three through time together told took toward town travel tree true try turn two under unit until
    use very voice wait walk wall want war warm was watch water way week well were west what wheel
    when where which white whole why wind winter with wonder wood word work world would write year
"""
WORDS = TEXT.split()


def make_prompts(
    encode: Encode, *, count: int, length: int, shared_prefix: int = 0, seed: int = 0
) -> list[list[int]]:
    """``count`` prompts of exactly ``length`` token ids.

    The first ``shared_prefix`` tokens are the same in all of them; otherwise they differ from the
    first words on. ``seed`` decides the words: take another one for each round.
    """
    if not 0 <= shared_prefix < length:
        raise RequestError(
            f"--shared-prefix must be 0 to {length - 1} (below the input length), got {shared_prefix}",
            "shared_prefix",
        )
    words = random.Random(f"legato bench {seed}")
    shared = _token_ids(encode, words, shared_prefix)
    return [shared + _token_ids(encode, words, length - shared_prefix) for _ in range(count)]


def _token_ids(encode: Encode, words: random.Random, length: int) -> list[int]:
    """A word is at least one token, so ``length`` words are always enough."""
    if length == 0:
        return []
    return encode(" ".join(words.choices(WORDS, k=length)))[:length]
