"""Render heads on features of a few cells."""

import torch
from easydict import EasyDict

from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.models.bev_head import BEVRenderHead
from nsmae_plugin.models.perspective_head import PerspectiveRenderHead
from nsmae_plugin.models.render_head import Encoders
from nsmae_plugin.models.view_transform import FactorizedDepthLSSTransform, FactorizedLSSTransform

GRID = BEVGrid((0.0, 4.0, 1.0), (0.0, 2.0, 1.0))
RANGE = (0.0, 0.0, -1.0, 4.0, 2.0, 1.0)


def perspective_head(
    features=(4, 5),
    depth_bins=(1.0, 13.0, 1.0),
    channels=8,
    kernels="torch",
    depth=False,
    image=None,
):
    """The head over images of 8 pixels a feature.

    Args:
        depth_bins: centre of the first, end and step in metres.
        depth: the view transform reads LiDAR depth.
        image: another height and width in pixels.
    """
    torch.manual_seed(0)
    kind = FactorizedDepthLSSTransform if depth else FactorizedLSSTransform
    config = EasyDict(
        NAME=kind.__name__,
        IMAGE_SIZE=list(image or (8 * side for side in features)),
        FEATURE_SIZE=list(features),
        IN_CHANNEL=8,
        OUT_CHANNEL=channels,
        XBOUND=[-4.0, 4.0, 1.0],
        YBOUND=[-4.0, 4.0, 1.0],
        ZBOUND=[-10.0, 10.0, 20.0],
        DBOUND=list(depth_bins),
        DOWNSAMPLE=1,
        KERNELS=kernels,
    )
    entry = EasyDict(NAME="PerspectiveRenderHead")
    return PerspectiveRenderHead(entry, Encoders(kind(config), {}, GRID, RANGE))


def bev_head(channels=None, height=0.5, grid=GRID, extent=RANGE):
    """The head over BEV features of so many channels by key."""
    torch.manual_seed(0)
    entry = EasyDict(NAME="BEVRenderHead", BIN_HEIGHT=height)
    return BEVRenderHead(entry, Encoders(None, channels or {"spatial_features": 4}, grid, extent))
