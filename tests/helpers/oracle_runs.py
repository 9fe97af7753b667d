"""Runs of tools/test.py with a detector that knows the truth, in a working directory of its own.

``python -m tests.helpers.oracle_runs <arguments of tools/test.py>`` evaluates it.
"""

import json
import sys
from pathlib import Path

import tools.test

# isort: split
import torch
import yaml
from torch import nn

from nsmae_plugin import host
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.registration import register_all
from nsmae_plugin.training import checkpoint
from tests.helpers import toys
from tests.helpers.oracle import OracleDetector, or_nan
from tests.helpers.paths import CFGS, TINY
from tests.helpers.programs import TORCHRUN, run_python

CLASS_NAMES = yaml.safe_load((TINY / "nsmae_pretrain.yaml").read_text())["CLASS_NAMES"]
CONFIG = {
    "CLASS_NAMES": CLASS_NAMES,
    "DATA_CONFIG": {
        "_BASE_CONFIG_": str(CFGS / "dataset_configs/synthetic_detection.yaml"),
        "CAMERA_CONFIG": {"USE_CAMERA": False},
        "DATA_AUGMENTOR": {"AUG_CONFIG_LIST": []},
        "DATA_PROCESSOR": [
            {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True}
        ],
    },
    "MODEL": {"NAME": "OracleWithHead"},
    "OPTIMIZATION": toys.CONFIG["OPTIMIZATION"],
}


class OracleWithHead(OracleDetector):
    """An oracle that can be trained, counts recalls, and has a head with a row per class."""

    def __init__(self, model_cfg, num_class, dataset):
        super().__init__(model_cfg, num_class, dataset)
        for path in Path(dataset.root_path).glob("nuscenes_infos_*.pkl"):  # of all splits
            self.infos |= {info["token"]: info for info in read_infos(path)}
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
        self.dense_head = nn.Linear(2, num_class)

    def update_global_step(self):
        self.global_step += 1

    def forward(self, batch):
        if self.training:
            # Without a gradient for ``shift``: whatever is trained, the boxes stay right.
            loss = self.dense_head.weight.square().mean() + self.dense_head.bias.square().mean()
            return {"loss": loss}, {}, {}
        assert not torch.is_grad_enabled()
        predictions, _ = super().forward(batch)
        found = sum(len(one["pred_boxes"]) for one in predictions)
        return predictions, {"gt": found, "roi_0.3": 0, "rcnn_0.3": found // 2, "rcnn_0.5": 0}


class OracleWithMap(OracleWithHead):
    """Knows the labels of the map, too, and is wrong by ``shift[0]`` cells along x.

    Its map head has a row per class; boxes are predicted where there is a MODEL.DENSE_HEAD.
    """

    def __init__(self, model_cfg, num_class, dataset):
        super().__init__(model_cfg, num_class, dataset)
        self.map_head = nn.Linear(2, len(dataset.dataset_cfg.MAP_CONFIG.CLASSES))
        if "DENSE_HEAD" not in model_cfg:
            self.dense_head = None

    @staticmethod
    def outputs(model_cfg):
        return {"map", "boxes"} if "DENSE_HEAD" in model_cfg else {"map"}

    def forward(self, batch):
        if self.training:
            return {"loss": self.map_head.weight.square().mean()}, {}, {}
        predictions, counts = [{} for _ in batch["metadata"]], {}
        if self.dense_head is not None:
            predictions, counts = super().forward(batch)
        for one, labels in zip(predictions, batch["gt_masks_bev"], strict=True):
            # What a shift moves over the border comes in on the other side.
            shift = or_nan(self.shift[0])
            moved = labels.roll(int(shift.nan_to_num()), dims=-1)
            one["masks_bev"] = 0.9 * moved + 0 * shift
        return predictions, counts


def register():
    register_all()
    host.register("detector", "OracleWithHead", OracleWithHead)
    host.register("detector", "OracleWithMap", OracleWithMap)


def run_tool(*arguments):
    """Run tools/test.py; returns its exit status."""
    register()
    return tools.test.main([str(one) for one in arguments])


def make_workspace(folder, root, model=CONFIG["MODEL"], **data):
    """Write ``folder/cfgs/group/oracle.yaml`` for the data below ``root``."""
    data = {**CONFIG["DATA_CONFIG"], "DATA_PATH": str(root), **data}
    config = {**CONFIG, "DATA_CONFIG": data, "MODEL": model}
    path = folder / "cfgs/group/oracle.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def run_folder(workspace, tag="default"):
    return workspace / "output/group/oracle" / tag


def save(
    workspace, epoch=3, shift=(0.0, 0.0, 0.0), classes=10, map_classes=0, tag="default", **more
):
    """Write the checkpoint of an oracle that is wrong by ``shift`` metres.

    classes, map_classes: that its heads know; without any there is no such head.
    """
    folder = run_folder(workspace, tag) / "ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "shift": torch.tensor(shift),
        "global_step": torch.tensor([4 * epoch]),
    }
    for head, rows in (("dense_head", classes), ("map_head", map_classes)):
        if rows:
            state |= {f"{head}.weight": torch.zeros(rows, 2), f"{head}.bias": torch.zeros(rows)}
    path = folder / f"checkpoint_epoch_{epoch}.pth"
    checkpoint.write({"epoch": epoch, "it": 4 * epoch, "model_state": state, **more}, path)
    return path


def evaluate(*more):
    return run_tool("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", *more)


def start_two_processes(workspace, *more):
    """Run tools/test.py in two processes of two samples each; returns what came out."""
    arguments = ("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", *more)
    options = ("--launcher", "pytorch", "--device", "cpu", "--batch_size", "4")
    return run_python(*TORCHRUN, "-m", __name__, *arguments, *options, cwd=workspace)


def results_folder(workspace, epoch=3, split="val", eval_tag="default"):
    return run_folder(workspace) / f"eval/epoch_{epoch}" / split / eval_tag


def summary(folder, name="metrics_summary.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def history(workspace):
    text = (run_folder(workspace) / "eval/metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


if __name__ == "__main__":
    sys.exit(run_tool(*sys.argv[1:]))
