"""Model files that are nearly right: their bytes, their JSON or their pieces changed in a place or two."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any, Final

from gguf_pieces import ARRAY, BOOL, F32, STRING, U32, U64, Entry, Pieces
from mutations import NUMBERS, TEXTS, _change, places

SIZES: Final = [
    0, 1, 2, 3, 4, 5, 7, 31, 32, 33, 63, 65, 255, 256, 4095, 4097, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**33, 2**40, 2**47, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8, 2**64 - 4096,
]  # fmt: skip


def damaged_bytes(data: bytes, end: int, dice: random.Random) -> bytes:
    """``data`` with its first ``end`` bytes, the header, changed somewhere."""
    out = bytearray(data)
    at = dice.randrange(max(1, min(end, len(data))))
    kind = dice.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        del out[at : at + dice.choice((1, 4, 8, 100))]
    elif kind == 2:
        out[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice((1, 4, 8))))
    elif kind == 3:
        out[at : at + 4] = struct.pack("<I", dice.choice(SIZES) % 2**32)
    elif kind == 4:
        out[at : at + 8] = struct.pack("<Q", dice.choice(SIZES))
    elif kind == 5:
        other = dice.randrange(max(1, end))
        out[at : at + 16] = out[other : other + 16]
    else:
        for _ in range(dice.choice((1, 2, 16))):
            out[dice.randrange(max(1, min(end, len(out))))] ^= 1 << dice.randrange(8)
    return bytes(out)


def damaged_json(text: str, dice: random.Random) -> bytes:
    if dice.random() < 0.2:
        return damaged_bytes(text.encode(), len(text), dice)
    value = json.loads(text)
    for _ in range(dice.choice((1, 1, 2))):
        inside = list(places(value))
        if inside:
            _change(value, dice.choice(inside), dice)
    return json.dumps(value).encode()


def damaged_gguf(pieces: Pieces, dice: random.Random) -> bytes:
    if dice.random() < 0.4:
        header = pieces.header()
        return damaged_bytes(pieces.file(), len(header), dice)
    changed = copy.deepcopy(pieces)
    for _ in range(dice.choice((1, 1, 2))):
        dice.choice((_entry, _entry, _tensor, _tensor, _frame))(changed, dice)
    return changed.file()


def _odd(kind: int, dice: random.Random) -> Any:
    if kind == STRING:
        return dice.choice(TEXTS)
    if kind == F32:
        return dice.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 3.0))
    if kind == BOOL:
        return dice.random() < 0.5
    if kind == ARRAY:
        inner = dice.choice((STRING, F32, U32, BOOL, 5))
        return inner, [_odd(inner, dice) for _ in range(dice.choice((0, 1, 3, 300)))]
    bits = {0: 8, 1: 7, 2: 16, 3: 15, U32: 32, 5: 31, U64: 64, 11: 63}.get(kind, 8)
    return dice.choice(SIZES) % 2**bits


def _entry(pieces: Pieces, dice: random.Random) -> None:
    at = dice.randrange(len(pieces.entries))
    entry = pieces.entries[at]
    kind = dice.randrange(6)
    if kind == 0:
        del pieces.entries[at]
    elif kind == 1:
        pieces.entries.insert(0, copy.deepcopy(entry))
    elif kind == 2:
        entry.kind = dice.choice((0, 1, 2, 3, U32, 5, F32, BOOL, STRING, ARRAY, U64, 11))
        entry.value = _odd(entry.kind, dice)
    elif kind == 3 and entry.kind == ARRAY and entry.value[1]:
        inner, values = entry.value
        values[dice.randrange(len(values))] = _odd(inner, dice)
        if dice.random() < 0.3:
            values.extend(values[: dice.randrange(20)])
    elif kind == 4:
        pieces.entries.append(Entry("llama.rope.scaling.type", STRING, dice.choice(TEXTS)))
    else:
        entry.value = _odd(entry.kind, dice)


def _tensor(pieces: Pieces, dice: random.Random) -> None:
    at = dice.randrange(len(pieces.infos))
    info = pieces.infos[at]
    kind = dice.randrange(7)
    if kind == 0:
        del pieces.infos[at]
    elif kind == 1:
        info.kind = dice.choice((*range(42), 255, 2**31))
    elif kind == 2 and info.dims:
        info.dims[dice.randrange(len(info.dims))] = dice.choice(SIZES)
    elif kind == 3:
        info.offset = dice.choice((*SIZES, len(pieces.data) - 32, len(pieces.data)))
    elif kind == 4:
        info.dims = [dice.choice(SIZES) for _ in range(dice.randrange(6))]
    elif kind == 5:
        info.name = dice.choice([*TEXTS, pieces.infos[0].name, "blk.99999.attn_q.weight"])
    else:
        info.dims.reverse()


def _frame(pieces: Pieces, dice: random.Random) -> None:
    kind = dice.randrange(4)
    if kind == 0:
        pieces.version = dice.choice((0, 1, 2, 4, 3 << 24, 2**31))
    elif kind == 1:
        pieces.counts = {dice.choice(("tensors", "entries")): dice.choice(SIZES)}
    elif kind == 2:
        pieces.data = pieces.data[: dice.randrange(len(pieces.data))]
    else:
        pieces.data += bytes(dice.choice((1, 4096)))


def damaged_safetensors(data: bytes, dice: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if dice.random() < 0.4:
        return damaged_bytes(data, 8 + length, dice)
    header = json.loads(data[8 : 8 + length])
    name = dice.choice(sorted(header))
    entry = header[name]
    kind = dice.randrange(6)
    if kind == 0:
        entry["dtype"] = dice.choice(["F64", "I8", "BOOL", "F16", "BF16", "", 7, None, ["F32"]])
    elif kind == 1 and "shape" in entry:
        entry["shape"] = [dice.choice([*SIZES, *NUMBERS]) for _ in range(dice.randrange(4))]
    elif kind == 2 and "data_offsets" in entry:
        entry["data_offsets"] = [dice.choice([*SIZES, *NUMBERS]) for _ in range(2)]
    elif kind == 3:
        header[dice.choice(TEXTS)] = header.pop(name)
    else:
        _change(header, dice.choice(list(places(header))), dice)
    text = json.dumps(header).encode()
    claimed = len(text) if dice.random() < 0.8 else dice.choice(SIZES)
    return struct.pack("<Q", claimed) + text + data[8 + length :]


TEMPLATES: Final = [
    "{% for", "{{ messages[0].content", "{{ 1/0 }}", "{{ messages[99].role }}", "{% include 'x' %}", "{{ [].__class__ }}",
    "{% import 'os' as os %}", "{% extends 'base' %}", "{{ raise_exception('no') }}", "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'a' * 10**10 }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "\x00", "{{ undefined.a.b }}", "{{ messages | tojson }}",
    "{{ '%0999999999d' % 1 }}", "{{" * 3000, "{% if 1 %}" * 500, "{{ " + "-" * 3000 + "1 }}", "{{ " + "[" * 500 + "]" * 500 + " }}",
]  # fmt: skip


def damaged_template(text: str, dice: random.Random) -> bytes:
    if dice.random() < 0.5:
        return dice.choice(TEMPLATES).encode()
    return damaged_bytes(text.encode(), len(text), dice)
