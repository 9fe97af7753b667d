"""Kinds of values in a configuration, of which the tables of sections are made.

A kind is a Python type, a tuple of types (any of them), a :class:`ListOf`, a section (a dict
``key -> kind``), or :data:`ANYTHING`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NUMBER = (int, float)
OPTIONAL_NUMBER = (int, float, type(None))


@dataclass(frozen=True)
class ListOf:
    """A list whose elements are ``kind``, of ``length`` elements when that is given."""

    kind: Any
    length: int | None = None

    def __str__(self) -> str:
        count = "" if self.length is None else f"{self.length} "
        return f"a list of {count}{describe(self.kind)}"


@dataclass(frozen=True)
class Required:
    """A key that must be there."""

    kind: Any


class _Anything:
    def __str__(self) -> str:
        return "anything"


ANYTHING = _Anything()
PAIR, TRIPLE = ListOf(NUMBER, 2), ListOf(NUMBER, 3)


def need(kind: Any) -> Required:
    """Mark a key as compulsory."""
    return Required(kind)


def describe(kind: Any) -> str:
    """Words for a kind, as error messages show them."""
    if isinstance(kind, tuple):
        return " or ".join(describe(one) for one in kind)
    if isinstance(kind, dict):
        return "a section"
    return {int: "an integer", float: "a float", str: "a string", bool: "true/false"}.get(
        kind, "null" if kind is type(None) else str(kind)
    )
