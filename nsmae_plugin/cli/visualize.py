"""Draw the renderings of a pre-trained network beside their targets."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from nsmae_plugin.runs.options import add_model_arguments
from nsmae_plugin.runs.visualize import VisualizeOptions, visualize
from nsmae_plugin.runtime.command_line import make_parser


def parse_options(arguments: list[str] | None = None) -> VisualizeOptions:
    parser = make_parser(__doc__)
    add_model_arguments(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--index", type=int, help="position in the split (default: 0)")
    which.add_argument("--token", help="nuScenes token of the sample")
    parser.add_argument("--output_dir", type=Path, help="default: output/pictures")
    return VisualizeOptions(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    # OpenPCDet prints while it builds a network; only the paths go to the standard output.
    with redirect_stdout(sys.stderr):
        paths = visualize(options)
    print(*paths, sep="\n")
    return 0
