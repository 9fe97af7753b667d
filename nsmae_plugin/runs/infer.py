"""Predict samples, a scene or a folder of frames, and write files, pictures and GIFs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.timeline import Timeline
from nsmae_plugin.errors import ConfigError, OutputError, brief
from nsmae_plugin.formats.nuscenes.scenes import scenes_of_samples
from nsmae_plugin.runs.loaded_model import load_model
from nsmae_plugin.runs.options import ModelOptions
from nsmae_plugin.runs.prediction import BOXES, MAP
from nsmae_plugin.runs.predictor import Predictor
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.file_names import file_name
from nsmae_plugin.runtime.reading import read_json
from nsmae_plugin.visualization.film import FILM_WIDTH, film_frame, save_film

logger = logging.getLogger("infer")

# Film of a scene -> the pictures of a sample that it shows side by side, and its width in pixels.
FILMS = {
    "film.gif": (("cameras.png", "bev.png"), FILM_WIDTH),
    "map.gif": (("map.png",), 1200),
}
LONGEST_FRAME = 600  # seconds; GIF counts hundredths in 16 bits


@dataclass(frozen=True, kw_only=True)
class InferOptions(ModelOptions):
    """Options of :func:`infer`: one of ``sample``, ``scene``, ``index`` and ``folder``, and

    Attributes:
        score_threshold: of written and drawn boxes.
        map_threshold: probability of the drawn map cells.
        labels: draw the vector map, not the predicted one, into the images.
        seconds_per_frame: of a GIF.
    """

    sample: str | None = None
    scene: str | None = None
    index: int = 0
    folder: Path | None = None
    score_threshold: float = 0.3
    map_threshold: float = 0.5
    labels: bool = False
    output_dir: Path = Path("output/inference")
    seconds_per_frame: float = 0.5


def infer(options: InferOptions) -> list[Path]:
    """Predict and write everything; returns the paths of the files.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        ConfigError, DataError: from the dataset, or a sample that it does not have.
        NonFiniteError: a prediction is NaN or infinite.
        OutputError: a folder holds predictions of another network, or cannot be written.
    """
    _check(options)
    config = load_config(options.cfg_file, options.overrides)
    if options.folder is not None:
        config.DATA_CONFIG |= {
            "DATASET": "FrameFolderDataset",
            "DATA_PATH": str(options.folder),
        }
    device = distributed.start("none", options.device).device
    loaded = load_model(
        config, options.split, device, options.ckpt, seed=options.seed, logger=logger
    )
    network = f"{options.cfg_file.stem}, {loaded.origin}"
    predictor = Predictor(
        loaded,
        config,
        device,
        options.score_threshold,
        network,
        options.map_threshold,
        options.labels,
    )
    chosen = _choose(options, config, predictor)
    refuse_other_networks([folder for _, folder in chosen], network)
    written = [predictor.save(index, folder) for index, folder in chosen]
    films = save_films(written, options.seconds_per_frame, chosen[0][1].parent)
    return [path for paths in written for path in paths] + films


def _check(options: InferOptions) -> None:
    for name in ("score_threshold", "map_threshold"):
        value = getattr(options, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"--{name} must be a number from 0 to 1, not {value}")
    if not 0 < options.seconds_per_frame <= LONGEST_FRAME:
        raise ConfigError(
            f"--seconds_per_frame must be above 0 and at most {LONGEST_FRAME}, not "
            f"{options.seconds_per_frame}"
        )


def _choose(options: InferOptions, config: Any, predictor: Predictor) -> list[tuple[int, Path]]:
    """Positions of the chosen samples, and the folder that each is written to."""
    dataset = predictor.loaded.dataset
    if options.scene is not None:
        frames = _timeline(dataset, config).frames(options.scene)
        place = options.output_dir / file_name(options.scene, "a scene")
        return [
            (predictor.loaded.index_of(info["token"]), place / f"{number:03d}")
            for number, info in enumerate(frames)
        ]
    if options.folder is not None:
        indices = list(range(len(dataset)))
    elif options.sample is not None:
        indices = [predictor.loaded.index_of(options.sample)]
    else:
        indices = [options.index]
    tokens = [
        file_name(predictor.info(index)["token"], "the token of a sample") for index in indices
    ]
    return [(index, options.output_dir / one) for index, one in zip(indices, tokens, strict=True)]


def _timeline(dataset: Any, config: Any) -> Timeline:
    if hasattr(dataset, "timeline"):
        return dataset.timeline
    # OpenPCDet's own dataset does not know scenes, its tables do.
    scenes = scenes_of_samples(Path(dataset.root_path), config.DATA_CONFIG.VERSION)
    return Timeline(dataset.infos, scenes)


def refuse_other_networks(folders: Iterable[Path], network: str) -> None:
    """Check before predicting that no folder holds predictions of another network.

    Pictures and films would otherwise show one network, and files that stay another.

    Args:
        network: description of configuration and weights, as in the files.

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


def save_films(written: list[list[Path]], seconds: float, folder: Path) -> list[Path]:
    """Films of several samples, each of the pictures that were written; returns their paths."""
    films = []
    for name, (pictures, width) in FILMS.items():
        shown = [[path for path in paths if path.name in pictures] for paths in written]
        if len(shown) > 1 and shown[0]:
            frames = [film_frame(paths, width) for paths in shown]
            films.append(save_film(frames, seconds, folder / name))
    return films
