"""Registration of the plugin's classes with the active host."""

from nsmae_plugin import host


def register_all() -> None:
    """Register the plugin's datasets, processors, modules and detectors; idempotent."""
    from nsmae_plugin.data.frame_folder import FrameFolderDataset
    from nsmae_plugin.data.masking import PROCESSORS
    from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
    from nsmae_plugin.data.scoring import register_scorer
    from nsmae_plugin.detectors.bev_fusion_map import BEVFusionMap
    from nsmae_plugin.detectors.bev_network import BEVDetector
    from nsmae_plugin.detectors.nsmae import NSMAE
    from nsmae_plugin.evaluation.reconstruction import ReconstructionScorer
    from nsmae_plugin.models.bev_decoder import GeneralizedResNetLSSFPN
    from nsmae_plugin.models.bev_head import BEVRenderHead
    from nsmae_plugin.models.masked_image_head import MaskedImageHead
    from nsmae_plugin.models.perspective_head import PerspectiveRenderHead
    from nsmae_plugin.models.view_transform import (
        FactorizedDepthLSSTransform,
        FactorizedLSSTransform,
    )

    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    host.register("dataset", "FrameFolderDataset", FrameFolderDataset)
    for name, function in PROCESSORS.items():
        host.register("processor", name, function)
    host.register("vtransform", "FactorizedLSSTransform", FactorizedLSSTransform)
    host.register("vtransform", "FactorizedDepthLSSTransform", FactorizedDepthLSSTransform)
    host.register("backbone_2d", "GeneralizedResNetLSSFPN", GeneralizedResNetLSSFPN)
    host.register("render_head", "PerspectiveRenderHead", PerspectiveRenderHead)
    host.register("render_head", "BEVRenderHead", BEVRenderHead)
    host.register("render_head", "MaskedImageHead", MaskedImageHead)
    host.register("detector", "NSMAE", NSMAE)
    host.register("detector", "BEVDetector", BEVDetector)
    host.register("detector", "BEVFusionMap", BEVFusionMap)
    register_scorer("reconstruction", ReconstructionScorer())
