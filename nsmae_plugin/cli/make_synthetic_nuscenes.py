"""Write a synthetic driving dataset as a nuScenes database that nuscenes-devkit loads.

    nsmae make-synthetic --out data/synthetic

writes data/synthetic/v1.0-mini: scenes under the official names of mini_train and mini_val, LiDAR
sweeps and camera images of the same geometry, annotations of all ten detection classes, and maps.
The same options give the same files.
"""

from pathlib import Path

from nsmae_plugin.runtime.command_line import make_parser, not_negative
from nsmae_plugin.synthetic import SyntheticOptions, write_dataset
from nsmae_plugin.synthetic.dataset import default_workers


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="data root to write under")
    add("--version", help="v1.0-mini or v1.0-trainval")
    add("--scenes", type=int)
    add("--keyframes", type=int, help="per scene, 2 Hz")
    add("--sweeps", type=int, help="LiDAR sweeps between keyframes")
    add("--cameras", type=int)
    add("--image_size", type=int, nargs=2, metavar=("H", "W"))
    add("--azimuths", type=int, help="LiDAR columns per turn")
    add("--seed", type=not_negative)
    add("--workers", type=int, default=default_workers(), help="processes; do not change the files")
    add("--quiet", action="store_true", default=False, help="no progress bar, no summary")
    given = vars(parser.parse_args(arguments))
    out, workers, quiet = (given.pop(name) for name in ("out", "workers", "quiet"))
    if "image_size" in given:
        given["image_size"] = tuple(given["image_size"])
    target = write_dataset(out, SyntheticOptions(**given), workers, show_progress=not quiet)
    if not quiet:
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        print(f"wrote {target} ({size / 1e6:.1f} MB)")
    return 0
