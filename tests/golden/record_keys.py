"""Record the parameter names and shapes of OpenPCDet's detectors, for tests without OpenPCDet.

Builds the detector of one of OpenPCDet's own configurations at full size and writes
``{name: shape}`` of its state dict. Needed again only when the reference commit changes:

    export OPENPCDET_ROOT=...
    python tests/golden/record_keys.py --commit 8caccce --out tests/golden/pcdet_keys.json

``tests/golden/pcdet_centerpoint_keys.json`` likewise, with
``--config tools/cfgs/nuscenes_models/cbgs_voxel0075_res3d_centerpoint.yaml``.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import nsmae_plugin  # noqa: F401  (sets the OpenMP policy before torch loads)

# isort: split
import numpy as np
import yaml
from easydict import EasyDict

from nsmae_plugin.errors import HostError
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.command_line import errors_in_one_line

CONFIG = "tools/cfgs/nuscenes_models/bevfusion.yaml"
VOXEL_SIZE = (0.075, 0.075, 0.2)  # metres, as in the files that the docstring names


def build_detector(config: EasyDict):
    """OpenPCDet's detector without image checkpoint."""
    from nsmae_plugin.host import openpcdet  # (--help needs no OpenPCDet)

    model = config.MODEL
    if "IMAGE_BACKBONE" in model:
        del model["IMAGE_BACKBONE"]["INIT_CFG"]
    extent = np.array(config.DATA_CONFIG.POINT_CLOUD_RANGE)
    dataset = SimpleNamespace(
        class_names=config.CLASS_NAMES,
        point_feature_encoder=SimpleNamespace(num_point_features=5),
        grid_size=np.round((extent[3:] - extent[:3]) / VOXEL_SIZE).astype(np.int64),
        point_cloud_range=extent,
        voxel_size=VOXEL_SIZE,
        depth_downsample_factor=None,
    )
    return openpcdet.build_network(model, num_class=len(config.CLASS_NAMES), dataset=dataset)


def _readable(golden: dict) -> str:
    """JSON with a line per name, so that a change shows as a diff."""
    head = {key: value for key, value in golden.items() if key != "state"}
    rows = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in golden["state"].items()
    )
    return json.dumps(head, indent=1)[:-2] + ',\n "state": {\n' + rows + "\n }\n}\n"


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--commit", required=True, help="commit of the OpenPCDet checkout")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--config", default=CONFIG, help="in the checkout (default: %(default)s)")
    args = parser.parse_args(arguments)

    root = os.environ.get("OPENPCDET_ROOT")
    if not root:
        raise HostError("set OPENPCDET_ROOT to the OpenPCDet checkout whose names are recorded")
    path = Path(root) / args.config
    config = EasyDict(yaml.safe_load(path.read_text(encoding="utf-8")))
    state = build_detector(config).state_dict()
    golden = {
        "source": "https://github.com/open-mmlab/OpenPCDet",
        "commit": args.commit,
        "config": args.config,
        "state": {name: list(value.shape) for name, value in state.items()},
    }
    files.write_text(args.out, _readable(golden))
    print(f"{len(state)} names from {path} ({args.commit}) -> {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
