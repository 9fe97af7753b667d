"""Write a synthetic driving dataset as a nuScenes database that nuscenes-devkit loads.

    python tools/make_synthetic_nuscenes.py --out data/synthetic

writes data/synthetic/v1.0-mini: scenes under the official names of mini_train and mini_val, LiDAR
sweeps and camera images of the same geometry, annotations of all ten detection classes, and maps.
The same options give the same files.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nsmae_plugin.runtime.command_line import errors_in_one_line, not_negative
from nsmae_plugin.synthetic import SyntheticOptions, write_dataset
from nsmae_plugin.synthetic.dataset import default_workers


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    default = SyntheticOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="data root to write under")
    parser.add_argument("--version", default=default.version, help="v1.0-mini or v1.0-trainval")
    parser.add_argument("--scenes", type=int, default=default.scenes)
    parser.add_argument("--keyframes", type=int, default=default.keyframes, help="per scene, 2 Hz")
    parser.add_argument(
        "--sweeps", type=int, default=default.sweeps, help="LiDAR sweeps between keyframes"
    )
    parser.add_argument("--cameras", type=int, default=default.cameras)
    parser.add_argument(
        "--image_size", type=int, nargs=2, default=default.image_size, metavar=("H", "W")
    )
    parser.add_argument(
        "--azimuths", type=int, default=default.azimuths, help="LiDAR columns per turn"
    )
    parser.add_argument("--seed", type=not_negative, default=default.seed)
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes; do not change the files"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    return parser.parse_args(argv)


@errors_in_one_line
def main(argv: list[str] | None = None) -> int:
    arguments = vars(parse_arguments(argv))
    out, workers, quiet = (arguments.pop(name) for name in ("out", "workers", "quiet"))
    arguments["image_size"] = tuple(arguments["image_size"])
    target = write_dataset(out, SyntheticOptions(**arguments), workers, show_progress=not quiet)
    if not quiet:
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        print(f"wrote {target} ({size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
