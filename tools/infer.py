"""Detect objects and segment the map in a sample, a scene or a folder: files, pictures, GIFs."""

import argparse
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.timeline import Timeline
from nsmae_plugin.formats.nuscenes.scenes import scenes_of_samples
from nsmae_plugin.runs.infer import Inference
from nsmae_plugin.runs.prediction_files import refuse_other_networks
from nsmae_plugin.runs.prepare import add_trial_arguments, prepare
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.command_line import errors_in_one_line
from nsmae_plugin.runtime.file_names import file_name
from nsmae_plugin.visualization.film import FILM_WIDTH, film_frame, save_film

logger = logging.getLogger("infer")

# Film of a scene -> the pictures of a sample that it shows side by side, and its width in pixels.
FILMS = {
    "film.gif": (("cameras.png", "bev.png"), FILM_WIDTH),
    "map.gif": (("map.png",), 1200),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--sample", metavar="TOKEN", help="nuScenes token of a sample of the split")
    which.add_argument("--scene", metavar="NAME", help="name of a scene of the split: scene-0103")
    which.add_argument("--index", type=int, help="position of a sample in the split")
    which.add_argument("--folder", type=Path, help="frames of one's own: see docs/INFERENCE.md")
    parser.add_argument(
        "--score_threshold", type=float, default=0.3, help="of written and drawn boxes"
    )
    parser.add_argument(
        "--map_threshold", type=float, default=0.5, help="probability of the drawn map cells"
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="lay the vector map upon the ground in the images, not the predicted map",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("output/inference"))
    parser.add_argument(
        "--seconds_per_frame", type=float, default=0.5, help="of a GIF (default: keyframes' pace)"
    )
    add_trial_arguments(parser)
    args = parser.parse_args(arguments)
    if args.ckpt is None:
        parser.error("--ckpt is needed: a checkpoint, or a folder whose newest one is taken")
    return args


def run(args: argparse.Namespace) -> list[Path]:
    """Predict, write everything, and return the paths of the files."""
    config = load_config(args.cfg_file, args.overrides)
    if args.folder is not None:
        config.DATA_CONFIG |= {
            "DATASET": "FrameFolderDataset",
            "DATA_PATH": str(args.folder),
        }
    device = distributed.start("none", args.device).device
    trial = prepare(config, args.split, device, args.ckpt, seed=args.seed, logger=logger)
    network = f"{args.cfg_file.stem}, {trial.origin}"
    inference = Inference(
        trial, config, device, args.score_threshold, network, args.map_threshold, args.labels
    )
    chosen = choose(args, config, inference)
    refuse_other_networks([folder for _, folder in chosen], network)
    written = [inference.save(index, folder) for index, folder in chosen]
    films = save_films(written, args.seconds_per_frame, chosen[0][1].parent)
    return [path for paths in written for path in paths] + films


def save_films(written: list[list[Path]], seconds: float, folder: Path) -> list[Path]:
    """Films of several samples, each of the pictures that were written; returns their paths."""
    films = []
    for name, (pictures, width) in FILMS.items():
        shown = [[path for path in paths if path.name in pictures] for paths in written]
        if len(shown) > 1 and shown[0]:
            frames = [film_frame(paths, width) for paths in shown]
            films.append(save_film(frames, seconds, folder / name))
    return films


def choose(args: argparse.Namespace, config: Any, inference: Inference) -> list[tuple[int, Path]]:
    """Positions of the samples that were asked for, and the folder that each is written to."""
    dataset = inference.trial.dataset
    if args.scene is not None:
        frames = _timeline(dataset, config).frames(args.scene)
        place = args.output_dir / file_name(args.scene, "a scene")
        return [
            (inference.trial.index_of(info["token"]), place / f"{number:03d}")
            for number, info in enumerate(frames)
        ]
    if args.folder is not None:
        indices = list(range(len(dataset)))
    elif args.sample is not None:
        indices = [inference.trial.index_of(args.sample)]
    else:
        indices = [args.index]
    tokens = [
        file_name(inference.info(index)["token"], "the token of a sample") for index in indices
    ]
    return [(index, args.output_dir / one) for index, one in zip(indices, tokens, strict=True)]


def _timeline(dataset: Any, config: Any) -> Timeline:
    if hasattr(dataset, "timeline"):
        return dataset.timeline
    # OpenPCDet's own dataset does not know scenes, its tables do.
    scenes = scenes_of_samples(Path(dataset.root_path), config.DATA_CONFIG.VERSION)
    return Timeline(dataset.infos, scenes)


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # OpenPCDet prints while it builds a network; what is printed here are the paths alone.
    with redirect_stdout(sys.stderr):
        paths = run(args)
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
