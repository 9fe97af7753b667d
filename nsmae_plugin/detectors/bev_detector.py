"""3D detection from cameras, LiDAR or both, through one bird's-eye view."""

from typing import ClassVar

from nsmae_plugin.detectors.bev_network import BEVNetwork


class BEVDetector(BEVNetwork):
    """Boxes from :class:`~nsmae_plugin.detectors.bev_network.BEVNetwork`.

    DENSE_HEAD is a CenterHead or a TransFusionHead. What the forward pass returns:
    :class:`~nsmae_plugin.host.dense_head.DenseHeadDetector`.
    """

    heads: ClassVar = {"DENSE_HEAD": True}
