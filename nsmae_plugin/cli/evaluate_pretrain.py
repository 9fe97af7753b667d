"""Measure the reconstruction of a split, beside predicting the mean or the median."""

import json
import sys
from contextlib import redirect_stdout

from nsmae_plugin.runs.evaluate_pretrain import EvaluatePretrainOptions, evaluate_pretrain
from nsmae_plugin.runs.options import add_model_arguments
from nsmae_plugin.runtime.command_line import make_parser


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add_model_arguments(parser)
    add = parser.add_argument
    add("--untrained", action="store_true", help="add an untrained network")
    add("--json", action="store_true", help="print all metrics as JSON instead")
    add("--batch_size", type=int, help="default: the configuration's, per GPU")
    add("--workers", type=int, help="default: 0")
    given = vars(parser.parse_args(arguments))
    as_json = given.pop("json", False)
    options = EvaluatePretrainOptions(**given)
    # OpenPCDet prints while it builds a network, which would spoil the JSON.
    with redirect_stdout(sys.stderr):
        results, table = evaluate_pretrain(options)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        samples = next(iter(results.values()))["samples"]
        print(f"{options.cfg_file.stem}, {options.split} split, {samples:.0f} samples")
        print(table)
    return 0
