"""Predictions, and a dataset as far as the nuScenes evaluation looks at one."""

from pathlib import Path

import numpy as np
from easydict import EasyDict
from nuscenes.eval.detection.constants import DETECTION_NAMES

from nsmae_plugin.data.scoring import Scoring
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.nuscenes.benchmark import NuScenesBenchmark

VERSION = "v1.0-mini"


def annotation(boxes, names, scores=None, token="one"):
    boxes = np.asarray(boxes, dtype=np.float64) if len(names) else np.zeros((0, 9))
    return {
        "name": np.array(names, dtype=str),
        "score": np.ones(len(names)) if scores is None else np.asarray(scores, dtype=np.float64),
        "boxes_lidar": boxes,
        "pred_labels": np.ones(len(names), dtype=np.int64),
        "metadata": {"token": token},
        "frame_id": token,
    }


class Frames:
    """A split of a database, as far as the evaluation looks at a dataset."""

    def __init__(self, root, split="val", version=VERSION, infos=None, class_names=DETECTION_NAMES):
        self.root_path = Path(root) / version
        self.dataset_cfg = EasyDict(VERSION=version, DATA_SPLIT={"test": split})
        self.class_names = list(class_names)
        self.infos = infos
        if infos is None:
            self.infos = read_infos(self.root_path / f"nuscenes_infos_3sweeps_{split}.pkl")

    def truth(self):
        """The annotated boxes as predictions, equally sure of all."""
        return [
            annotation(
                np.nan_to_num(info["gt_boxes"])[known],
                info["gt_names"][known],
                token=info["token"],
            )
            for info in self.infos
            for known in [np.isin(info["gt_names"], self.class_names)]
        ]

    @property
    def scoring(self):
        split = self.dataset_cfg.DATA_SPLIT["test"]
        benchmark = NuScenesBenchmark(self.root_path, self.dataset_cfg.VERSION, split, True, True)
        return Scoring("Frames", self.dataset_cfg.get("MAP_CONFIG"), benchmark)

    def annotate(self, batch, predictions, class_names, output_path=None):
        return self.scoring.annotate(batch, predictions, class_names, output_path)

    def check(self, boxes=True):
        return self.scoring.check(self.infos, self.class_names, boxes)

    def score(self, annotations, folder):
        return self.scoring.score(annotations, self.infos, self.class_names, folder)
