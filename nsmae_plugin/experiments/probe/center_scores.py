"""Average precision of object centres, by the functions of the nuscenes-devkit.

As in nuScenes' detection benchmark, a prediction is right when its centre lies within 0.5, 1, 2 or
4 m of an object of its class that no better prediction has taken, and objects and predictions
beyond the range of their class do not count. Unlike there, everything stays in the LiDAR frame:
ranges count from the LiDAR instead of the middle of the rear axle, and bicycle racks are not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.nuscenes.devkit import CONFIG
from nsmae_plugin.geometry.boxes import Boxes, to_global

SHOWN_DISTANCE = 2.0  # metres; the benchmark measures the errors of the right boxes at it, too
ERRORS = {"mATE": "trans_err", "mASE": "scale_err", "mAOE": "orient_err"}
NO_ORIENTATION = ("traffic_cone",)  # as in the benchmark


class CenterScorer:
    """Scores boxes of a fixed set of frames.

    Args:
        truth: the annotated boxes of every frame, LiDAR frame; velocities do not matter.
        class_names: classes that count.

    Raises:
        ConfigError: a class that nuScenes does not evaluate.
        DataError: there is no box of the classes within their ranges.
    """

    def __init__(self, truth: Sequence[Boxes], class_names: Sequence[str]):
        from nuscenes.eval.common.config import config_factory

        self._config = config_factory(CONFIG)
        foreign = [name for name in class_names if name not in self._config.class_range]
        if foreign:
            raise ConfigError(
                f"CLASS_NAMES: nuScenes has no class {', '.join(foreign)}; it evaluates "
                f"{', '.join(self._config.class_range)}"
            )
        self._truth = self._by_class(truth, class_names)
        self.classes = [name for name in class_names if self._truth[name].all]
        if not self.classes:
            raise DataError(
                f"no box of {', '.join(class_names)} lies within the range of its class in "
                f"{len(truth)} frames: there are no centres to score"
            )

    def score(self, predicted: Sequence[Boxes]) -> dict[str, float]:
        """Scores in [0, 1] and errors of the predictions for all frames.

        Args:
            predicted: boxes with scores, in the order of the frames of the truth.

        Returns:
            ``mAP`` and ``AP/<class>`` over the four distances, ``mAP@2m`` and ``AP@2m/<class>``;
            means over the classes that the frames have boxes of. Of the right boxes at 2 m
            ``mATE`` (metres), ``mASE`` (1 - IoU of aligned boxes) and ``mAOE`` (radians), where
            smaller is better.
        """
        from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp

        config, boxes = self._config, self._by_class(predicted, self.classes)
        ap: dict[str, float] = {}
        shown: dict[str, float] = {}
        errors: dict[str, list[float]] = {name: [] for name in ERRORS}
        for name in self.classes:
            data = {
                distance: accumulate(
                    self._truth[name], boxes[name], name, config.dist_fcn_callable, distance
                )
                for distance in config.dist_ths
            }
            values = [
                calc_ap(one, config.min_recall, config.min_precision) for one in data.values()
            ]
            ap[name] = float(np.mean(values))
            shown[name] = values[config.dist_ths.index(SHOWN_DISTANCE)]
            for error, field in ERRORS.items():
                if error != "mAOE" or name not in NO_ORIENTATION:
                    errors[error].append(calc_tp(data[SHOWN_DISTANCE], config.min_recall, field))
        return {
            "mAP": float(np.mean(list(ap.values()))),
            "mAP@2m": float(np.mean(list(shown.values()))),
            **{error: float(np.mean(values)) for error, values in errors.items() if values},
            **{f"AP/{name}": value for name, value in ap.items()},
            **{f"AP@2m/{name}": value for name, value in shown.items()},
        }

    def _by_class(self, frames: Sequence[Boxes], class_names: Sequence[str]) -> dict[str, Any]:
        """For each class the devkit's boxes of all frames, within the range of the class."""
        from nuscenes.eval.common.data_classes import EvalBoxes

        found = {name: EvalBoxes() for name in class_names}
        for index, boxes in enumerate(frames):
            within = np.hypot(boxes.values[:, 0], boxes.values[:, 1])
            ranges = [self._config.class_range.get(name, 0) for name in boxes.names]
            for name, box in _devkit_boxes(boxes.where(within < ranges), str(index)):
                if name in found:
                    found[name].add_boxes(str(index), [box])
        return found


def _devkit_boxes(boxes: Boxes, token: str) -> list[tuple[str, Any]]:
    """Pairs of class and the devkit's box, in the LiDAR frame."""
    from nuscenes.eval.detection.data_classes import DetectionBox

    scores = [-1.0] * len(boxes) if boxes.scores is None else boxes.scores.tolist()
    return [
        (
            name,
            DetectionBox(
                sample_token=token,
                translation=tuple(one["translation"]),
                size=tuple(one["size"]),
                rotation=tuple(one["rotation"]),
                detection_name=name,
                detection_score=score,
            ),
        )
        for name, score, one in zip(boxes.names, scores, to_global(boxes, np.eye(4)), strict=True)
    ]
