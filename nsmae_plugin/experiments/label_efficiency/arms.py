"""The arms of a label-efficiency experiment: from scratch, and from weights by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nsmae_plugin.errors import ConfigError

SCRATCH, PRETRAINED = "scratch", "pretrained"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # it begins the names of folders


def named_weights(words: Sequence[str]) -> dict[str, Path]:
    """The weights of each arm, from ``NAME=PATH``; a single path is the arm ``pretrained``.

    Raises:
        ConfigError: words without a name, or a name that is reserved or given twice.
    """
    pairs = [_split(word) for word in words]
    if len(words) == 1 and (pairs[0] is None or Path(words[0]).exists()):
        return {PRETRAINED: Path(words[0])}
    weights: dict[str, Path] = {}
    for word, pair in zip(words, pairs, strict=True):
        if pair is None:
            raise ConfigError(f"--pretrained_model {word}: several are given as NAME=PATH")
        name, path = pair
        if name == SCRATCH or name in weights:
            reason = "means training without weights" if name == SCRATCH else "is given twice"
            raise ConfigError(f"--pretrained_model {word}: the name {name} {reason}")
        weights[name] = path
    return weights


def _split(word: str) -> tuple[str, Path] | None:
    """Name and path; None if it is no ``NAME=PATH``."""
    name, _, path = word.partition("=")
    return (name, Path(path)) if path and _NAME.fullmatch(name) else None


def title(arm: str) -> str:
    """The arm in tables and plots."""
    return "pre-trained" if arm == PRETRAINED else arm
