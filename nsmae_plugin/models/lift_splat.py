"""Base class of the lift-splat view transforms on the factors of the frustum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.intervals import count_steps
from nsmae_plugin.geometry.projection import frustum_pixels, frustum_rays
from nsmae_plugin.models import module_config
from nsmae_plugin.ops.bev_pool import bev_pool, to_rows
from nsmae_plugin.ops.conv_block import conv_block
from nsmae_plugin.ops.kernels import require_triton
from nsmae_plugin.ops.pooling_plan import PoolingPlan, build_plan, frustum_cells

GEOMETRY_KEYS = ("camera_intrinsics", "camera2lidar", "img_aug_matrix", "lidar_aug_matrix")
STOCK_GRID_KEYS = ("dx", "bx", "nx", "frustum")
GEOMETRY = "view_geometry"  # in a batch, between preparation and lift


class ViewGeometry(NamedTuple):
    """Geometry that follows from calibration and points alone."""

    plan: PoolingPlan  # where the pairs of pixel and depth bin go in the view from above
    depth: torch.Tensor | None = None  # (B * N, 1, H, W) metres, where LiDAR depth is read


class LiftSplatTransform(nn.Module, ABC):
    """Camera features to bird's-eye view (Philion and Fidler, 2020), without a frustum tensor.

    A subclass has the layers: ``depthnet``, which :meth:`factors` applies, and ``downsample``. The
    grid follows from the configuration and stays out of checkpoints; the grid tensors in those of
    BEVFusion and OpenPCDet are ignored on loading.

    Config keys: :class:`~nsmae_plugin.models.module_config.FactorizedLSSTransform`. ROUNDING
    'truncate' is that of OpenPCDet and BEVFusion; KERNELS counts for the pooling and for the
    perspective head that renders this frustum.

    Reads: ``image_fpn`` (its first map: (B * N, IN_CHANNEL, fH, fW)), ``camera_intrinsics``,
    ``camera2lidar``, ``img_aug_matrix`` (B, N, 4, 4), ``lidar_aug_matrix`` (B, 4, 4); takes out
    ``view_geometry`` (optional, of :meth:`prepare`), which stands for the matrices.

    Writes: ``depth_logits`` (B * N, D, fH, fW), ``depth_context`` (B * N, OUT_CHANNEL, fH, fW),
    ``spatial_features_img`` (B, OUT_CHANNEL, Y, X).

    Attributes:
        renders_frustum: ``depth_logits`` and ``depth_context`` are there for a render head.
        reads_lidar_depth: depth points of the LiDAR are an input.

    Raises:
        ConfigError: sizes, bounds or options that do not fit together.
    """

    Config: ClassVar = module_config.FactorizedLSSTransform
    renders_frustum: ClassVar = True
    reads_lidar_depth: ClassVar = False

    depths: torch.Tensor  # (D,) metres
    pixels: torch.Tensor  # (fH * fW, 2) u, v in the augmented image
    depthnet: nn.Module
    downsample: nn.Module

    def __init__(self, model_cfg: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        config: Any = self.Config.of(model_cfg, "MODEL.VTRANSFORM")
        self.image_size: tuple[int, int] = tuple(config.IMAGE_SIZE)
        self.feature_size: tuple[int, int] = tuple(config.FEATURE_SIZE)
        self.rounding, self.kernels = config.ROUNDING, config.KERNELS
        require_triton(self.kernels, "MODEL.VTRANSFORM.KERNELS")
        self.grid = BEVGrid.from_bounds(
            {f"MODEL.VTRANSFORM.{axis}BOUND": getattr(config, f"{axis}BOUND") for axis in "XYZ"}
        )
        self.num_bins = count_steps(config.DBOUND, "DBOUND")
        self.out_channels = config.OUT_CHANNEL
        start, _, step = config.DBOUND
        depths = start + step * torch.arange(self.num_bins, dtype=torch.float64)
        self.register_buffer("depths", depths.float(), persistent=False)
        pixels = frustum_pixels(self.image_size, self.feature_size)
        self.register_buffer("pixels", pixels, persistent=False)
        self._cached: tuple[tuple[torch.Tensor, ...], PoolingPlan] | None = None
        self._register_load_state_dict_pre_hook(_drop_stock_grid)

    def depth_edges(self) -> torch.Tensor:
        """(D + 1,) boundaries in metres of the depth bins, whose centres are ``depths``."""
        start, _, step = self.model_cfg.DBOUND
        return (start + step * (torch.arange(self.num_bins + 1, dtype=torch.float64) - 0.5)).float()

    def pixels_per_cell(self) -> int:
        """Pixels of the image per feature, along both sides.

        Raises:
            ConfigError: there is no such whole number.
        """
        stride = self.image_size[0] // self.feature_size[0]
        if tuple(stride * side for side in self.feature_size) != self.image_size:
            raise ConfigError(
                f"MODEL.VTRANSFORM.IMAGE_SIZE {list(self.image_size)} must be one multiple of "
                f"FEATURE_SIZE {list(self.feature_size)} along both sides"
            )
        return stride

    @abstractmethod
    def factors(self, features: torch.Tensor, geometry: ViewGeometry) -> torch.Tensor:
        """(B * N, D + OUT_CHANNEL, fH, fW): depth logits, then context, of the image features."""

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Lift, pool and downsample; keys in the class's docstring."""
        bev = self.pooled_map(batch_dict, self.lift(batch_dict))
        batch_dict["spatial_features_img"] = self.downsample(bev).permute(0, 1, 3, 2)
        return batch_dict

    def pooled_map(self, batch_dict: dict[str, Any], plan: PoolingPlan) -> torch.Tensor:
        """(B, Z * OUT_CHANNEL, X, Y): the pooled frustum, the input of ``downsample``."""
        x_cells, y_cells, z_cells = self.grid.size
        rows = self.pool(batch_dict, plan)
        # Rows are channels-last maps already; they are (x, y) until the convolutions are through.
        return rows.view(-1, x_cells, y_cells, z_cells * self.out_channels).permute(0, 3, 1, 2)

    def lift(self, batch_dict: dict[str, Any]) -> PoolingPlan:
        """Write ``depth_logits`` and ``depth_context``; return where :meth:`pool` has them go."""
        features = batch_dict["image_fpn"][0]
        self._check_features(features, batch_dict)
        geometry = batch_dict.pop(GEOMETRY, None) or self.prepare(batch_dict)
        mixed = self.factors(features, geometry)
        # As in the stock module, pool in float32 under autocast, too.
        mixed = mixed.to(torch.promote_types(mixed.dtype, torch.float32))
        logits, context = mixed.split((self.num_bins, self.out_channels), dim=1)
        batch_dict["depth_logits"], batch_dict["depth_context"] = logits, context
        return geometry.plan

    def prepare(self, batch_dict: Mapping[str, Any]) -> ViewGeometry:
        """The part that needs no features.

        Its sizes depend on the data, so that a GPU has to be waited for; detectors therefore put it
        into the batch before they queue anything.
        """
        return ViewGeometry(self.plan(batch_dict))

    def pool(self, batch_dict: dict[str, Any], plan: PoolingPlan) -> torch.Tensor:
        """(B * X * Y * Z, OUT_CHANNEL): the sum of what the frustum holds in each cell."""
        depth = to_rows(batch_dict["depth_logits"]).softmax(1)
        context = to_rows(batch_dict["depth_context"])
        return bev_pool(depth, context, plan, self.kernels)

    @torch.no_grad()
    def plan(self, batch_dict: Mapping[str, Any]) -> PoolingPlan:
        """The pooling plan of this batch; that of the last call while no matrix has changed."""
        matrices = tuple(batch_dict[key] for key in GEOMETRY_KEYS)
        if self._cached is not None and _same(self._cached[0], matrices):
            return self._cached[1]
        self._cached = None  # two plans need not be held at once
        plan = build_plan(self.cells(batch_dict), len(matrices[0]) * self.grid.num_voxels)
        self._cached = (tuple(matrix.clone() for matrix in matrices), plan)
        return plan

    def cells(self, batch_dict: Mapping[str, Any]) -> torch.Tensor:
        """(P, D) int32 cell of every frustum point of the batch, -1 outside the grid."""
        rays, origins = frustum_rays(self.pixels, *(batch_dict[key] for key in GEOMETRY_KEYS))
        return frustum_cells(rays, origins, self.depths, self.grid, self.rounding)

    def _check_features(self, features: torch.Tensor, batch_dict: Mapping[str, Any]) -> None:
        if tuple(features.shape[-2:]) != self.feature_size:
            raise ConfigError(
                f"the image neck delivers {tuple(features.shape[-2:])} features, but "
                f"MODEL.VTRANSFORM.FEATURE_SIZE is {list(self.feature_size)}: set it, and "
                "MODEL.VTRANSFORM.IMAGE_SIZE, to fit DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM"
            )
        batch, cameras = batch_dict["camera_intrinsics"].shape[:2]
        if len(features) != batch * cameras:
            raise DataError(
                f"image_fpn holds {len(features)} maps, but the calibration is of {batch} samples "
                f"with {cameras} cameras each"
            )


def build_downsample(channels: int, factor: int) -> nn.Module:
    """Three convolutions of the BEV, the second of which halves it; nothing at factor 1."""
    if factor == 1:
        return nn.Identity()
    return nn.Sequential(
        *conv_block(channels, channels, 3),
        *conv_block(channels, channels, 3, stride=factor),
        *conv_block(channels, channels, 3),
    )


def _drop_stock_grid(state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """OpenPCDet stores its grid as parameters; ours follows from the configuration."""
    for key in STOCK_GRID_KEYS:
        state_dict.pop(prefix + key, None)


def _same(old: tuple[torch.Tensor, ...], new: tuple[torch.Tensor, ...]) -> bool:
    return all(a.device == b.device and torch.equal(a, b) for a, b in zip(old, new, strict=True))
