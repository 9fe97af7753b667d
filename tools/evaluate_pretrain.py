"""Measure the reconstruction of a split, beside predicting the mean or the median."""

import argparse
import json
import sys
from contextlib import redirect_stdout

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
from tqdm import tqdm

from nsmae_plugin.config.load import load_config
from nsmae_plugin.evaluation.reconstruction import evaluate
from nsmae_plugin.evaluation.reconstruction_table import format_table
from nsmae_plugin.models.render_head import RenderHead
from nsmae_plugin.runs.prepare import add_trial_arguments, prepare
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.command_line import errors_in_one_line


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_trial_arguments(parser)
    parser.add_argument("--untrained", action="store_true", help="add an untrained network")
    parser.add_argument("--json", action="store_true", help="print all metrics as JSON instead")
    parser.add_argument("--batch_size", type=int, help="default: the configuration's, per GPU")
    parser.add_argument("--workers", type=int, default=0)
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> tuple[dict[str, dict[str, float]], list[RenderHead]]:
    """Metrics of each network, by the title of its column; and the render heads that title rows."""
    config = load_config(args.cfg_file, args.overrides)
    device = distributed.start("none", args.device).device
    batch_size = args.batch_size or config.OPTIMIZATION.BATCH_SIZE_PER_GPU
    checkpoints = {"trained": args.ckpt} if args.ckpt else {}
    if args.untrained or not args.ckpt:
        checkpoints["untrained"] = None
    results = {}
    for title, ckpt in checkpoints.items():
        trial = prepare(config, args.split, device, ckpt, batch_size, args.workers, args.seed)
        print(f"{title}: {trial.origin}", file=sys.stderr)
        loader = tqdm(trial.loader, desc=title, disable=not sys.stderr.isatty())
        results[title] = evaluate(trial.model, loader, device)
    return results, trial.model.render_heads


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    # OpenPCDet prints while it builds a network, which would spoil the JSON.
    with redirect_stdout(sys.stderr):
        results, heads = run(args)
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        samples = next(iter(results.values()))["samples"]
        print(f"{args.cfg_file.stem}, {args.split} split, {samples:.0f} samples")
        print(format_table(results, heads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
