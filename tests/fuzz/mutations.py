"""How a file is damaged: by chance, byte by byte, or by somebody who knows the format."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

Parsed = tuple[dict[str, Any], dict[str, Any], bytes]
"""The table of a safetensors file, the header of dither in it, and the bytes of the tensors."""


# ---- bytes: what disks, networks and interrupted copies do
def _flip_one(data: bytearray, rng: random.Random) -> None:
    data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _flip_many(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([2, 4, 16, 200])):
        data[_place(data, rng)] = rng.randrange(256)


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _extend(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.choice([1, 8, 1000]))


def _zero(data: bytearray, rng: random.Random) -> None:
    begin, end = _range(data, rng)
    data[begin:end] = bytes(end - begin)


def _delete(data: bytearray, rng: random.Random) -> None:
    begin, end = _range(data, rng)
    del data[begin:end]


def _insert(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    data[at:at] = rng.randbytes(rng.choice([1, 4, 64]))


def _repeat(data: bytearray, rng: random.Random) -> None:
    begin, end = _range(data, rng)
    data[end:end] = data[begin:end]


def _move(data: bytearray, rng: random.Random) -> None:
    begin, end = _range(data, rng)
    part = data[begin:end]
    del data[begin:end]
    at = _place(data, rng) if data else 0
    data[at:at] = part


def _length(data: bytearray, rng: random.Random) -> None:
    old = struct.unpack_from("<Q", data)[0]
    new = rng.choice([0, 1, 2, 8, old - 1, old + 1, old + 8, len(data), 10**8, 2**31, 2**32, 2**48, 2**63, 2**64 - 1])
    struct.pack_into("<Q", data, 0, new % 2**64)


BYTES = (_flip_one, _flip_one, _flip_one, _flip_many, _truncate, _extend, _zero, _delete, _insert, _repeat, _move,
         _length)  # fmt: skip


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, in the header more often than its length would make it."""
    header = min(struct.unpack_from("<Q", data)[0] + 8, len(data)) if len(data) >= 8 else len(data)
    return rng.randrange(header if rng.random() < 0.5 else len(data))


def _range(data: bytearray, rng: random.Random) -> tuple[int, int]:
    begin = _place(data, rng)
    return begin, min(begin + rng.choice([1, 2, 8, 64, 1000]), len(data))


# ---- JSON: what other programs write, and what a header says to mislead
def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HUGE = "a number of 5,000 digits"  # which Python reads and writes only if it is told to


def text_of(value: Any) -> str:
    return json.dumps(value).replace(f'"{HUGE}"', "9" * 5_000)


WEIRD: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**400, HUGE,
    0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "0", "1", "-1", "weight", "0.weight", "x" * 100_000, "\ud800", "\x00", "σ", "é" * 50, "..", "../../net",
    "__class__", "__dict__", "forward", "training", "[bold]", "{0}", "%s",
    [], [0], [1, 0], [0, 0], [-1], [2**62], [2**62, 4], [0, 2**62], [0.5], ["0"], [None], [[]], [[0]],
    list(range(3000)), _nested(20), _nested(300),
    {}, {"": {}}, {"0": [0]}, {"1": [0]}, {"-1": [0]}, {"9": []}, {"a": 1}, {"__class__": 1}, {"weight": {"0": [0]}},
)  # fmt: skip


def _spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value in a JSON value is."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _spots(inner, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def change(value: Any, rng: random.Random) -> None:
    """Change a JSON object at one place, in place."""
    spots = list(_spots(value))
    if not spots:
        return
    *before, key = rng.choice(spots)
    holder = _at(value, tuple(before))
    kind = rng.randrange(8)
    if kind < 3:
        holder[key] = copy.deepcopy(rng.choice(WEIRD))
    elif kind == 3:
        del holder[key]
    elif kind == 4:
        old = holder[key]
        number = isinstance(old, (int, float)) and not isinstance(old, bool)
        holder[key] = old + rng.choice([-1, 1, 0.5, 2**40]) if number else [old]
    elif kind == 5:
        new = copy.deepcopy(rng.choice(WEIRD))
        if isinstance(holder, list):
            holder.insert(key, new)
        else:
            holder[rng.choice(["", "0", "before", "extra", "shape", "dtype", "0.weight", "..", str(key) + "x"])] = new
    elif kind == 6:  # two values change places
        *other, last = rng.choice(spots)
        there = _at(value, tuple(other))
        holder[key], there[last] = copy.deepcopy(there[last]), copy.deepcopy(holder[key])
    else:  # under another name, or beside itself
        old = holder[key]
        if isinstance(holder, list):
            holder.append(copy.deepcopy(old))
        else:
            holder[rng.choice([k for k in holder if k != key] or ["x"])] = holder.pop(key)


def parse(content: bytes) -> Parsed:
    """Table, header and data of a good file."""
    (length,) = struct.unpack_from("<Q", content)
    table = json.loads(content[8 : 8 + length])
    return table, json.loads(table["__metadata__"]["dither"]), content[8 + length :]


def assemble(table: Any, header: Any, data: bytes) -> bytes:
    """A file of these three; a header that is None, or whose place in the table is gone, is left as it is there."""
    if header is not None and isinstance(table, dict) and isinstance(table.get("__metadata__"), dict):
        table["__metadata__"]["dither"] = header if isinstance(header, str) else text_of(header)
    text = text_of(table).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _twice(text: str, rng: random.Random) -> str:
    """A key that is there twice."""
    name = rng.choice(["version", "class", "shared", "shrunk", "checksums", "metadata", "kept"])
    return text.replace(f'"{name}":', f'"{name}": {text_of(rng.choice(WEIRD))}, "{name}":', 1)


def _deep(text: str, rng: random.Random) -> str:
    """Brackets in brackets, many more than any program writes."""
    depth = rng.choice([500, 5_000, 200_000])
    return text.replace('"metadata":', '"metadata": ' + rng.choice(["[", '{"a":']) * depth, 1)


def _scramble(text: str, rng: random.Random) -> str:
    """Characters of JSON at a place where they do not belong."""
    at = rng.randrange(len(text))
    return (
        text[:at]
        + rng.choice(['"', "{", "}", "[", "]", ",", ":", "\\", "\\u", "NaN", "1e", "-", "//", "\x00"])
        + text[at:]
    )


TEXTS = (_twice, _deep, _scramble)
Seal = Callable[[dict[str, Any], dict[str, Any], bool], str]
"""A changed header as JSON with the checksums that belong to it; or, if so asked, as a version that had none."""


def mutate(content: bytes, others: list[bytes], rng: random.Random, seal: Seal) -> tuple[str, bytes, bool]:
    """What was done, the damaged file, and whether its checksums were made to agree (or left out) by who did it."""
    data = bytearray(content)
    way = rng.randrange(10)
    if way < 4:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            how = rng.choice(BYTES)
            if len(data) >= 8:
                how(data, rng)
        return f"bytes {how.__name__}", bytes(data), False
    table, header, tensors = parse(content)
    if way == 4:
        table_there, header_there, tensors_there = parse(rng.choice(others))
        which = rng.randrange(3)
        made = ((table, header_there, tensors), (table_there, header, tensors_there), (table, header, tensors_there))
        return f"splice {which}", assemble(*made[which]), False
    if way == 5:
        for _ in range(rng.choice([1, 1, 2])):
            change(table, rng)
        return "table", assemble(table, None, tensors), False
    if way == 6:
        how = rng.choice(TEXTS)
        return f"text {how.__name__}", assemble(table, how(text_of(header), rng), tensors), False
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        change(header, rng)
    if way == 7:
        return "header", assemble(table, header, tensors), False
    return "sealed header", assemble(table, seal(header, table, rng.random() < 0.5), tensors), True
