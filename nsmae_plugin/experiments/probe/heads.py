"""Small heads on frozen features: the linear and the shallow probe, and their training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

Loss = Callable[[Tensor, Sequence[int]], Tensor]  # (logits, frames) -> scalar
Read = Callable[[Sequence[int]], Tensor]  # frames -> (B, C, H, W) float32


@dataclass(frozen=True)
class Recipe:
    """The training of a head, the same for every network.

    AdamW, a frame a step; the learning rate rises over the first WARM_UP of the steps and falls as
    a cosine to 0. The number of steps is such that more change scores by less than networks
    differ (docs/PROBE.md).

    Attributes:
        width: channels of the hidden layers; 0: there are none.
        least, most: steps. epochs: rounds over the labelled frames in between.
        lr: highest learning rate.
    """

    width: int
    least: int
    epochs: int
    most: int
    lr: float
    weight_decay: float

    def steps(self, frames: int) -> int:
        """Number of optimiser steps on so many labelled frames."""
        return min(max(self.least, self.epochs * frames), self.most)


RECIPES = {
    "linear": Recipe(width=0, least=400, epochs=2, most=3000, lr=1e-2, weight_decay=1e-2),
    "shallow": Recipe(width=32, least=400, epochs=4, most=6000, lr=1e-2, weight_decay=5e-2),
}
WARM_UP = 0.1
MOMENTUM = 0.02  # of BatchNorm: a step sees one frame


def build_head(
    width: int, channels: int, biases: Sequence[float], generator: torch.Generator
) -> nn.Sequential:
    """A head (B, channels, H, W) -> (B, outputs, H, W), initialised from ``generator``.

    With a width: convolutions 1×1, 3×3 and 1×1, the first two with BatchNorm and ReLU.

    Args:
        width: channels of the hidden layers; 0: one 1×1 convolution.
        biases: the outputs at the beginning of the training, one for each.
    """
    layers: list[nn.Module] = []
    if width:
        for kernel, inputs in ((1, channels), (3, width)):
            convolution = nn.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=False)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
            layers += [convolution, nn.BatchNorm2d(width, momentum=MOMENTUM), nn.ReLU()]
    last = nn.Conv2d(width or channels, len(biases), 1)
    # The outputs begin at the biases and differ by little.
    nn.init.normal_(last.weight, std=0.01, generator=generator)
    cast(Tensor, last.bias).data.copy_(torch.tensor(biases))
    return nn.Sequential(*layers, last)


def fit(
    head: nn.Module,
    read: Read,
    loss: Loss,
    frames: Sequence[int],
    recipe: Recipe,
    generator: torch.Generator,
) -> list[float]:
    """Train ``head`` on the labelled ``frames``; it is in evaluation mode afterwards.

    Args:
        generator: of the order of the frames, on the CPU.

    Returns:
        The loss of every step.
    """
    head.train()
    # Weight decay for products alone, not for biases and norms.
    kinds: list[list[Tensor]] = [[], []]
    for parameter in head.parameters():
        kinds[parameter.ndim < 2].append(parameter)
    groups = [
        {"params": kinds[0], "weight_decay": recipe.weight_decay},
        {"params": kinds[1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    steps = recipe.steps(len(frames))
    schedule = LambdaLR(optimiser, lambda step: _share_of_lr(step / steps))
    losses = []
    for frame in islice(_in_random_order(frames, generator), steps):
        value = loss(head(read([frame])), [frame])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(value.detach()))
    head.eval()
    return losses


def _share_of_lr(progress: float) -> float:
    if progress < WARM_UP:
        return (progress + 0.01) / (WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def _in_random_order(frames: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    """All frames in random order, again and again."""
    while True:
        for position in torch.randperm(len(frames), generator=generator).tolist():
            yield frames[position]
