"""OpenPCDet's single-stage detectors under their names.

They differ in their configurations alone: the slots are those of the template, absent ones are
skipped, and either kind of head trains.
"""

from typing import Any

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.builtin.detector import Detector3DTemplate
from nsmae_plugin.host.dense_head import DenseHeadDetector


class _SingleStage(DenseHeadDetector, Detector3DTemplate):
    """Encoders, BEV backbone and one dense head.

    Raises:
        ConfigError: there is no DENSE_HEAD.
    """

    def __init__(self, model_cfg: Any, num_class: int, dataset: Any) -> None:
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        if model_cfg.get("DENSE_HEAD") is None:
            raise ConfigError(f"{type(self).__name__} needs MODEL.DENSE_HEAD")
        self.module_list = self.build_networks()


class BevFusion(_SingleStage):
    """Cameras and LiDAR fused in bird's-eye view (BEVFusion, arXiv 2205.13542)."""


class CenterPoint(_SingleStage):
    """LiDAR with a heatmap of centres per class (CenterPoint, arXiv 2006.11275)."""


class TransFusion(_SingleStage):
    """LiDAR with queries from a heatmap (the LiDAR half of TransFusion, arXiv 2203.11496)."""
