"""What a head on frozen features is asked for.

A task holds the labels of a training and of a test split, gives a loss on frames of the one, and
scores outputs for all frames of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor


class Meter(Protocol):
    """Collects the outputs for the frames of the test split, in their order."""

    def add(self, frames: Sequence[int], logits: Tensor) -> None: ...

    def metrics(self) -> dict[str, float]: ...


class Task(Protocol):
    """One task on two splits.

    Attributes:
        name: on the command line and in tables.
        metric: of :meth:`Meter.metrics`, by which networks are compared unless told otherwise.
        biases: the outputs of an untrained head, one for each.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    biases: Sequence[float]

    def loss(self, logits: Tensor, frames: Sequence[int]) -> Tensor:
        """Scalar loss of outputs (B, outputs, H, W) for frames of the training split."""

    def meter(self) -> Meter:
        """A new meter for the test split."""
