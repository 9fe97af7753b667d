"""Damage of bytes, and of nested values such as JSON and info files hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Bytes = Callable[[np.random.Generator, bytes], bytes]


def truncate(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: rng.integers(len(content) + 1)]


def flip_bits(rng: np.random.Generator, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 4)):
        damaged[place] ^= 1 << rng.integers(8)
    return bytes(damaged)


def overwrite(rng: np.random.Generator, content: bytes) -> bytes:
    start, size = rng.integers(len(content)), rng.integers(1, 65)
    filler = bytes(size) if rng.random() < 0.5 else rng.bytes(size)
    return (content[:start] + filler + content[start + size :])[: len(content)]


def insert(rng: np.random.Generator, content: bytes) -> bytes:
    place = rng.integers(len(content) + 1)
    return content[:place] + rng.bytes(rng.integers(1, 33)) + content[place:]


def repeat(rng: np.random.Generator, content: bytes) -> bytes:
    start, end = sorted(rng.integers(len(content) + 1, size=2))
    return content[:end] + content[start:]


def replace_all(rng: np.random.Generator, content: bytes) -> bytes:
    others = (b"", b"\n", b"<html>404</html>" * 20, b"\xff\xfe" * 50, bytes(1000), b"null", b"[]")
    return others[rng.integers(len(others))]


BYTES: tuple[Bytes, ...] = (truncate, flip_bits, overwrite, insert, repeat, replace_all)


def mutate_bytes(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """Name of the damage, and the damaged bytes."""
    damage = BYTES[rng.integers(len(BYTES))]
    return damage.__name__, damage(rng, content)


NAN, INF = float("nan"), float("inf")
JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 1 << 70, 0.5, -1e30, NAN, INF, "", "x", "a\nb", "../../x", "ü" * 400),
    *("\ud800", "a\0b", b"x", [], [[]], {}, {"a": 1}, [NAN], [1, "a"], [0.0] * 3, [[0.0] * 3] * 3),
)
JSON_JUNK = tuple(one for one in JUNK if not isinstance(one, bytes))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside dicts and lists."""
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list):
        for key, one in enumerate(value):
            yield from places(one, (*at, key))


def mutate_value(
    rng: np.random.Generator, value: Any, junk: tuple[Any, ...] = JUNK
) -> tuple[str, Any]:
    """Name of the damage, and a copy in which one value is removed, replaced or doubled."""
    damaged = copy.deepcopy(value)
    ways = list(places(damaged))
    way = ways[rng.integers(len(ways))]
    *parents, last = way
    holder = damaged
    for key in parents:
        holder = holder[key]
    where = ".".join(map(str, way))
    choice = rng.random()
    if choice < 0.2:
        del holder[last]
        return f"without {where}", damaged
    if choice < 0.3 and isinstance(holder, list):
        holder.insert(last, copy.deepcopy(holder[last]))
        return f"{where} twice", damaged
    if choice < 0.45 and isinstance(holder[last], np.ndarray):
        holder[last] = mutate_array(rng, holder[last])
        return f"{where} with other elements", damaged
    holder[last] = copy.deepcopy(junk[rng.integers(len(junk))])
    return f"{where} is {holder[last]!r}"[:80], damaged


def mutate_array(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Another shape, type, or one element of another value."""
    choice = rng.integers(5)
    if choice == 0:
        return array[:-1] if array.ndim else array.reshape(1)
    if choice == 1:
        return array[..., None]
    if choice == 2:
        return array.astype(str)
    if choice == 3 or not array.size or array.dtype.kind not in "iuf":
        return np.concatenate([array.ravel(), array.ravel()])
    damaged = array.copy()
    damaged.flat[rng.integers(array.size)] = (
        (NAN, INF, -INF, 1e30, -1e6, 0.0)[rng.integers(6)]
        if array.dtype.kind == "f"
        else (0, 1, np.iinfo(array.dtype).max)[rng.integers(3)]
    )
    return damaged
