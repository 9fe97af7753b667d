"""Detect objects and segment the map in a sample, a scene or a folder: files, pictures, GIFs."""

import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path

from nsmae_plugin.runs.infer import InferOptions, infer
from nsmae_plugin.runs.options import add_model_arguments
from nsmae_plugin.runtime.command_line import make_parser


def parse_options(arguments: list[str] | None = None) -> InferOptions:
    parser = make_parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--sample", metavar="TOKEN", help="nuScenes token of a sample of the split")
    which.add_argument("--scene", metavar="NAME", help="name of a scene of the split: scene-0103")
    which.add_argument("--index", type=int, help="position of a sample in the split")
    which.add_argument("--folder", type=Path, help="frames of one's own: see docs/INFERENCE.md")
    add = parser.add_argument
    add("--score_threshold", type=float, help="of written and drawn boxes")
    add("--map_threshold", type=float, help="probability of the drawn map cells")
    add(
        "--labels",
        action="store_true",
        help="lay the vector map upon the ground in the images, not the predicted map",
    )
    add("--output_dir", type=Path, help="default: output/inference")
    add("--seconds_per_frame", type=float, help="of a GIF (default: keyframes' pace)")
    add_model_arguments(parser)
    options = InferOptions(**vars(parser.parse_args(arguments)))
    if options.ckpt is None:
        parser.error("--ckpt is needed: a checkpoint, or a folder whose newest one is taken")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # OpenPCDet prints while it builds a network; only the paths go to the standard output.
    with redirect_stdout(sys.stderr):
        paths = infer(options)
    print(*paths, sep="\n")
    return 0
