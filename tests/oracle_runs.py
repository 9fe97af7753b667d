"""Runs of tools/test.py with a detector that knows the truth, in a working directory of its own.

``python tests/oracle_runs.py <arguments of tools/test.py>`` evaluates it.
"""

import importlib.util
import json
import struct
import sys
from pathlib import Path

import nsmae_plugin

# isort: split
import torch
import toys
import yaml
from oracle import OracleDetector
from tensorboardX.proto.event_pb2 import Event
from torch import nn

from nsmae_plugin import host
from nsmae_plugin.data.infos import read_infos
from nsmae_plugin.registration import register_all
from nsmae_plugin.training import checkpoint

CLASS_NAMES = yaml.safe_load((toys.REPOSITORY / "cfgs/tiny/nsmae_pretrain.yaml").read_text())[
    "CLASS_NAMES"
]
CONFIG = {
    "CLASS_NAMES": CLASS_NAMES,
    "DATA_CONFIG": {
        "_BASE_CONFIG_": str(toys.REPOSITORY / "cfgs/dataset_configs/synthetic_detection.yaml"),
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


def register():
    register_all()
    host.register("detector", "OracleWithHead", OracleWithHead)


def tool():
    spec = importlib.util.spec_from_file_location("tools_test", toys.REPOSITORY / "tools/test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tool(*arguments):
    """Run tools/test.py; returns its exit status."""
    original = nsmae_plugin.register
    nsmae_plugin.register = register
    try:
        return tool().main([str(one) for one in arguments])
    finally:
        nsmae_plugin.register = original


def make_workspace(folder, root):
    """Write ``folder/cfgs/group/oracle.yaml`` for the data below ``root``."""
    config = {**CONFIG, "DATA_CONFIG": {**CONFIG["DATA_CONFIG"], "DATA_PATH": str(root)}}
    path = folder / "cfgs/group/oracle.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def run_folder(workspace, tag="default"):
    return workspace / "output/group/oracle" / tag


def save(workspace, epoch=3, shift=(0.0, 0.0, 0.0), classes=10, tag="default", **more):
    """Write the checkpoint of an oracle that is wrong by ``shift`` metres."""
    folder = run_folder(workspace, tag) / "ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "shift": torch.tensor(shift),
        "global_step": torch.tensor([4 * epoch]),
        "dense_head.weight": torch.zeros(classes, 2),
        "dense_head.bias": torch.zeros(classes),
    }
    path = folder / f"checkpoint_epoch_{epoch}.pth"
    checkpoint.write({"epoch": epoch, "it": 4 * epoch, "model_state": state, **more}, path)
    return path


def evaluate(*more):
    return run_tool("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", *more)


def results_folder(workspace, epoch=3, split="val", eval_tag="default"):
    return run_folder(workspace) / f"eval/epoch_{epoch}" / split / eval_tag


def summary(folder):
    return json.loads((folder / "metrics_summary.json").read_text(encoding="utf-8"))


def history(workspace):
    text = (run_folder(workspace) / "eval/metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def scalars(folder):
    """``{tag: [(step, value)]}`` of the TensorBoard files in a folder, in the order of steps."""
    result = {}
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)  # then 4 bytes of checksum
            event = Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length
            for value in event.summary.value:
                result.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {tag: sorted(values) for tag, values in result.items()}


if __name__ == "__main__":
    sys.exit(run_tool(*sys.argv[1:]))
