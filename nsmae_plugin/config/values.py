"""Types of the values of a configuration, each with words for messages.

An ``Annotated`` type with :class:`Words` completes the sentence "X must be …".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.intervals import count_steps

INT_LIMIT = 1 << 31
MOST_LAYERS = 1000
MOST_BINS = 1000  # of depth
MOST_STEPS = 100_000

#: Default of a key that may be left out, but not be null.
ABSENT: Any = None


@dataclass(frozen=True)
class Words:
    """Words for a type in messages: for one value, and for several in a list."""

    one: str
    several: str = ""


def each_once(value: list[str]) -> list[str]:
    """Refuse a list that repeats a name."""
    if len(set(value)) < len(value):
        raise ValueError("repeats a name")
    return value


def _increasing(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise ValueError("decreases")
    return value


def _box(value: list[float]) -> list[float]:
    if any(low >= high for low, high in zip(value[:3], value[3:], strict=True)):
        raise ValueError("is empty")
    return value


def _steps(value: list[float]) -> list[float]:
    try:
        count = count_steps(value, "")
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if count > MOST_STEPS:
        raise ValueError(f"holds {count} steps")
    return value


PositiveInt = Annotated[int, Gt(0), Lt(INT_LIMIT), Words("a positive integer", "positive integers")]
#: Layers, one after the other.
LayerCount = Annotated[
    int,
    Gt(0),
    Le(MOST_LAYERS),
    Words(f"an integer from 1 to {MOST_LAYERS}", f"integers from 1 to {MOST_LAYERS}"),
]
NonNegativeInt = Annotated[
    int, Ge(0), Lt(INT_LIMIT), Words("an integer of at least 0", "integers of at least 0")
]
PositiveFloat = Annotated[float, Gt(0), Words("a positive number", "positive numbers")]
NonNegative = Annotated[float, Ge(0), Words("a number of at least 0", "numbers of at least 0")]
Ratio = Annotated[float, Ge(0), Le(1), Words("a number from 0 to 1", "numbers from 0 to 1")]
#: Something, up to everything: a fraction of a set that must not be empty.
Fraction = Annotated[
    float, Gt(0), Le(1), Words("a number above 0, at most 1", "numbers above 0, at most 1")
]
BelowOne = Annotated[
    float, Ge(0), Lt(1), Words("a number from 0 to below 1", "numbers from 0 to below 1")
]
PairBelowOne = Annotated[list[BelowOne], Len(2, 2), Words("a list of 2 numbers from 0 to below 1")]
Names = Annotated[
    list[str],
    Len(1),
    AfterValidator(each_once),
    Words("a list of names, at least one and each once"),
]
Pair = Annotated[list[float], Len(2, 2), Words("a list of 2 numbers")]
Triple = Annotated[list[float], Len(3, 3), Words("a list of 3 numbers")]
PositiveTriple = Annotated[list[PositiveFloat], Len(3, 3), Words("a list of 3 positive numbers")]
NonNegativeTriple = Annotated[
    list[NonNegative], Len(3, 3), Words("a list of 3 numbers of at least 0")
]
#: Height and width, or another pair of counts.
Size = Annotated[list[PositiveInt], Len(2, 2), Words("a list of 2 positive integers")]
#: [low, high] with low <= high.
Range = Annotated[
    Pair, AfterValidator(_increasing), Words("a list of 2 numbers, the lower one first")
]
#: The same, above 0.
PositiveRange = Annotated[
    list[PositiveFloat],
    Len(2, 2),
    AfterValidator(_increasing),
    Words("a list of 2 positive numbers, the lower one first"),
]
#: [x, y, z, x, y, z] of the lower and of the upper corner, metres.
PointCloudRange = Annotated[
    list[float],
    Len(6, 6),
    AfterValidator(_box),
    Words("a list of 6 numbers, x, y, z of the lower corner and of the upper one"),
]
#: [min, max, step] of a grid along one axis.
Bound = Annotated[
    Triple,
    AfterValidator(_steps),
    Words(
        "a list of 3 numbers, min, max and step, with a whole number of steps between the two, "
        f"at most {MOST_STEPS}"
    ),
]
