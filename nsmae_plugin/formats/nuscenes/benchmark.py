"""nuScenes' detection benchmark for the boxes that networks predict on a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats.nuscenes import devkit
from nsmae_plugin.formats.nuscenes.devkit import Split
from nsmae_plugin.formats.nuscenes.results import ATTRIBUTES, make_results
from nsmae_plugin.runtime import files

RESULTS = "results_nusc.json"


@dataclass(frozen=True)
class NuScenesBenchmark:
    """Scores boxes by the nuscenes-devkit.

    Attributes:
        root: folder that holds ``samples/`` and the folder ``version`` of JSON tables.
        split: ``DATA_SPLIT.test``.
        use_camera, use_lidar: sensors of the network, which a results file states.
        part: tokens of the samples that are evaluated; None: those of the whole split.
    """

    root: Path
    version: str
    split: str
    use_camera: bool
    use_lidar: bool
    part: frozenset[str] | None = None

    def check(
        self, infos: Sequence[Mapping[str, Any]], class_names: Sequence[str], boxes: bool = True
    ) -> Split:
        """The split to evaluate, checked before a network runs for hours.

        Args:
            boxes: whether boxes are evaluated, and not only maps.

        Raises:
            ConfigError: a class that nuScenes does not evaluate, or an unknown split.
            DataError: the info files hold other samples than the split, or no annotations.
        """
        foreign = [name for name in class_names if name not in ATTRIBUTES]
        if boxes and foreign:
            raise ConfigError(
                f"CLASS_NAMES: the nuScenes benchmark has no class {', '.join(foreign)}; it has "
                f"{', '.join(ATTRIBUTES)}"
            )
        found = devkit.find(self.root, self.version, self.split)
        if self.part is not None:
            found = replace(found, tokens=found.tokens & self.part)
        found.check_samples([info["token"] for info in infos], "the info files hold")
        labelled = any(len(info.get("gt_names", ())) for info in infos)
        if boxes and found.has_labels and not labelled:
            raise DataError(
                f"no sample of the split {found.name} of {self.root} has an annotated box: "
                "there is nothing to score; evaluate a labelled split"
            )
        return found

    def score(
        self,
        annotations: Sequence[Mapping[str, Any]],
        infos: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        folder: Path,
    ) -> tuple[str, dict[str, float]]:
        """The devkit's tables and metrics; writes ``results_nusc.json`` and the devkit's files.

        Returns:
            Text and ``{metric: value}``; for v1.0-test, which has no public annotations, a remark
            and no metrics.

        Raises:
            ConfigError, DataError: see :meth:`check` and :func:`make_results`.
            NonFiniteError: a box is NaN or infinite.
        """
        found = self.check(infos, class_names)
        content = make_results(annotations, infos, self.use_camera, self.use_lidar)
        path = folder / RESULTS
        files.write_text(path, json.dumps(content))
        if not found.has_labels:
            return f"no annotations in {found.version}: submit {path}", {}
        text, metrics = devkit.score(found, path, folder)
        absent = [name for name in ATTRIBUTES if name not in class_names]
        if absent:
            text = f"not in CLASS_NAMES, counted with AP 0: {', '.join(absent)}\n\n{text}"
        return text, metrics
