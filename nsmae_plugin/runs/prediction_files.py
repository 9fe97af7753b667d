"""Folders that predictions are written into hold those of one network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nsmae_plugin.errors import OutputError, brief
from nsmae_plugin.runtime.reading import read_json

BOXES, MAP = "boxes.json", "map.npz"


def refuse_other_networks(folders: Iterable[Path], network: str) -> None:
    """Before anything is predicted: no folder holds predictions of another network.

    Pictures and films would otherwise show one network, and files that stay another.

    Args:
        network: configuration and weights in words, as the files hold them.

    Raises:
        OutputError: naming the file, the other network and what to do.
    """
    for folder in folders:
        for path in (folder / BOXES, folder / MAP):
            if not path.exists():
                continue
            other = _network(path)
            if other != network:
                raise OutputError(
                    f"{path} was predicted by {brief(other)}, and this is {brief(network)}; choose "
                    f"another --output_dir, or remove {folder}"
                )


def _network(path: Path) -> str:
    """The network that a file of predictions names."""
    try:
        if path.name == MAP:
            with np.load(path, allow_pickle=False) as content:
                return str(content["network"])
        return str(read_json(path, "the predictions", "remove it")["network"])
    except Exception:  # damaged files and archives raise nearly anything
        return "something else"
