"""Draw the renderings of a pre-trained network beside their targets."""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.runs.prepare import add_trial_arguments, prepare
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.command_line import errors_in_one_line
from nsmae_plugin.visualization.reconstruction_pictures import sample_of, save_pictures


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_trial_arguments(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--index", type=int, default=0, help="position in the split (default: 0)")
    which.add_argument("--token", help="nuScenes token of the sample")
    parser.add_argument("--output_dir", type=Path, default=Path("output/pictures"))
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> list[Path]:
    """Render a sample and write its pictures; return their paths."""
    config = load_config(args.cfg_file, args.overrides)
    device = distributed.start("none", args.device).device
    trial = prepare(config, args.split, device, args.ckpt, seed=args.seed)
    index = args.index if args.token is None else trial.index_of(args.token)
    batch = host.to_device(trial.batch_of(index), device)
    with torch.inference_mode():
        rendered, _ = trial.model(batch)
    sample = sample_of(batch, rendered, 0, config.DATA_CONFIG.POINT_CLOUD_RANGE)
    token = trial.dataset.infos[index]["token"]
    caption = f"{args.cfg_file.stem}, {trial.origin} · {args.split} sample {index}, {token}"
    return save_pictures(sample, caption, args.output_dir)


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    # OpenPCDet prints while it builds a network; what is printed here are the paths alone.
    with redirect_stdout(sys.stderr):
        paths = run(args)
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
