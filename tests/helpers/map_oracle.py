"""A network that knows the vector map, to draw and score maps without training.

``OracleSegmenter`` predicts the labels of the batch with a probability of 0.9 where they are and
0.1 elsewhere, wrong by its weights; samples without a map are all drivable_area. ``OracleOfBoth``
predicts the annotated boxes as well.
"""

import json

import torch
import yaml
from torch import nn

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.training import checkpoint
from tests.helpers.oracle import OracleDetector, or_nan
from tests.helpers.paths import TINY

MAP_CONFIG = {
    "CLASSES": [
        "drivable_area",
        "ped_crossing",
        "walkway",
        "stop_line",
        "carpark_area",
        "divider",
    ],
    "XBOUND": [-50.0, 50.0, 0.5],
    "YBOUND": [-50.0, 50.0, 0.5],
    "LINE_WIDTH": 1.0,
}
SURE, UNSURE = 0.9, 0.1


class OracleSegmenter(nn.Module):
    def __init__(self, model_cfg, num_class, dataset):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2))  # of the probabilities; in cells along y

    def forward(self, batch_dict):
        samples = range(batch_dict["batch_size"])
        return [{"masks_bev": self.segment(batch_dict, number)} for number in samples], {}

    def segment(self, batch_dict, number):
        if "gt_masks_bev" not in batch_dict:
            masks = torch.full((len(MAP_CONFIG["CLASSES"]), 200, 200), UNSURE)
            masks[0] = SURE
            return masks + or_nan(self.offset[0])
        labels = batch_dict["gt_masks_bev"][number]
        return torch.where(labels.roll(int(self.offset[1]), dims=-2), SURE, UNSURE) + or_nan(
            self.offset[0]
        )


class OracleOfBoth(OracleSegmenter):
    """Predicts the annotated boxes as well."""

    def __init__(self, model_cfg, num_class, dataset):
        super().__init__(model_cfg, num_class, dataset)
        self.detector = OracleDetector(model_cfg, num_class, dataset)

    def forward(self, batch_dict):
        boxes, maps = self.detector(batch_dict)[0], super().forward(batch_dict)[0]
        return [box | area for box, area in zip(boxes, maps, strict=True)], {}


def write_arguments(folder, root, name="OracleSegmenter", offset=(0.0, 0.0), **data_config):
    """What ``tools/infer.py`` takes to ask an oracle that is wrong by ``offset``."""
    content = load_config(TINY / "nsmae_pretrain.yaml")
    content["MODEL"] = {"NAME": name}
    content["DATA_CONFIG"] |= {"DATA_PATH": str(root), "MAP_CONFIG": MAP_CONFIG, **data_config}
    path = folder / "map_oracle.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))  # plain containers
    state = {"offset": torch.tensor(offset)}
    if name == "OracleOfBoth":
        state["detector.shift"] = torch.zeros(3)
    weights = folder / "map_oracle.pth"
    checkpoint.write({"epoch": 3, "it": 12, "model_state": state}, weights)
    return ["--cfg_file", str(path), "--ckpt", str(weights), "--device", "cpu"]


def register():
    """Enter the oracle into the active host."""
    for network in (OracleSegmenter, OracleOfBoth):
        host.register("detector", network.__name__, network)
