"""Camera features to bird's-eye view: depth Lift-Splat-Shoot without the frustum tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.geometry import frustum_pixels, frustum_rays
from nsmae_plugin.models.bev_pool import bev_pool, to_rows
from nsmae_plugin.models.depth_map import lidar_depth_map
from nsmae_plugin.models.kernels import check_kernels
from nsmae_plugin.models.pooling_plan import (
    ROUNDINGS,
    BevGrid,
    PoolingPlan,
    bin_count,
    build_plan,
    frustum_cells,
)

GEOMETRY_KEYS = ("camera_intrinsics", "camera2lidar", "img_aug_matrix", "lidar_aug_matrix")
STOCK_GRID_KEYS = ("dx", "bx", "nx", "frustum")
HINT_STRIDE = 8  # of dtransform: 4, then 2
GEOMETRY = "view_geometry"  # in a batch, between preparation and lift


class ViewGeometry(NamedTuple):
    """What calibration and points alone decide.

    hints: (B * N, 1, H, W) metres, as :meth:`FactorizedDepthLSSTransform.depth_hints`.
    plan: where the pairs of pixel and depth bin go in the view from above.
    """

    hints: torch.Tensor
    plan: PoolingPlan


class FactorizedDepthLSSTransform(nn.Module):
    """OpenPCDet's ``DepthLSSTransform`` on the factors: same weights, same result.

    (Except without a single LiDAR point in any image, see :meth:`hint_features`.)

    Parameter names are OpenPCDet's (``dtransform``, ``depthnet``, ``downsample``). The grid follows
    from the configuration and stays out of checkpoints; the grid tensors in OpenPCDet's own
    checkpoints are ignored on loading.

    Config keys: IMAGE_SIZE, FEATURE_SIZE (image / 8), IN_CHANNEL, OUT_CHANNEL, XBOUND, YBOUND,
    ZBOUND, DBOUND ([start, stop, step], metres), DOWNSAMPLE (1 or 2), ROUNDING ('truncate', the
    default, as OpenPCDet, or 'floor'), KERNELS ('torch', the default, or 'triton': the fused
    kernels for CUDA, of the pooling and of the perspective head that renders this frustum).

    Reads: ``image_fpn`` (its first map: (B * N, IN_CHANNEL, fH, fW)), ``points`` (absent: no
    hints), ``depth_hint_mask`` (optional, true: hidden), ``camera_intrinsics``, ``camera2lidar``,
    ``lidar2image``, ``img_aug_matrix`` (B, N, 4, 4), ``lidar_aug_matrix`` (B, 4, 4); takes out
    ``view_geometry`` (optional, of :meth:`prepare`), which stands for all but the first.

    Writes: ``depth_logits`` (B * N, D, fH, fW), ``depth_context`` (B * N, OUT_CHANNEL, fH, fW),
    ``spatial_features_img`` (B, OUT_CHANNEL, Y, X).

    Raises:
        ConfigError: sizes, bounds or options that do not fit together.
    """

    depths: torch.Tensor  # (D,) metres
    pixels: torch.Tensor  # (fH * fW, 2) u, v in the augmented image

    def __init__(self, model_cfg: Any) -> None:
        super().__init__()
        self.model_cfg = model_cfg
        self.image_size = tuple(model_cfg.IMAGE_SIZE)
        self.feature_size = tuple(model_cfg.FEATURE_SIZE)
        self.rounding = model_cfg.get("ROUNDING", "truncate")
        self.kernels = check_kernels(model_cfg.get("KERNELS", "torch"), "MODEL.VTRANSFORM.KERNELS")
        self.grid = BevGrid.from_bounds(
            {f"MODEL.VTRANSFORM.{key}": model_cfg[key] for key in ("XBOUND", "YBOUND", "ZBOUND")}
        )
        self.num_bins = bin_count(model_cfg.DBOUND, "MODEL.VTRANSFORM.DBOUND")
        self.out_channels = model_cfg.OUT_CHANNEL
        _check_options(self, model_cfg)
        start, _, step = model_cfg.DBOUND
        depths = start + step * torch.arange(self.num_bins, dtype=torch.float64)
        self.register_buffer("depths", depths.float(), persistent=False)
        pixels = frustum_pixels(self.image_size, self.feature_size)
        self.register_buffer("pixels", pixels, persistent=False)

        self.dtransform = _build_dtransform()
        self.depthnet = _build_depthnet(
            model_cfg.IN_CHANNEL + 64, model_cfg.IN_CHANNEL, self.num_bins + self.out_channels
        )
        self.downsample = _build_downsample(self.out_channels, model_cfg.DOWNSAMPLE)
        self._cached: tuple[tuple[torch.Tensor, ...], PoolingPlan] | None = None
        self._register_load_state_dict_pre_hook(_drop_stock_grid)

    def forward(self, batch_dict: dict[str, Any]) -> dict[str, Any]:
        """Lift, pool and downsample; keys in the class's docstring."""
        features = batch_dict["image_fpn"][0]
        self._check_features(features, batch_dict)
        hints, plan = batch_dict.pop(GEOMETRY, None) or self.prepare(batch_dict)
        mixed = self.depthnet(torch.cat((self.hint_features(hints), features), dim=1))
        # As the stock module, pool in float32 whatever autocast chose for the convolutions.
        mixed = mixed.to(torch.promote_types(mixed.dtype, torch.float32))
        logits, context = mixed.split((self.num_bins, self.out_channels), dim=1)
        batch_dict["depth_logits"], batch_dict["depth_context"] = logits, context
        x_cells, y_cells, z_cells = self.grid.size
        rows = self.pool(batch_dict, plan)
        # Rows are channels-last maps already; they are (x, y) until the convolutions are through.
        bev = rows.view(-1, x_cells, y_cells, z_cells * self.out_channels).permute(0, 3, 1, 2)
        batch_dict["spatial_features_img"] = self.downsample(bev).permute(0, 1, 3, 2)
        return batch_dict

    def hint_features(self, hints: torch.Tensor) -> torch.Tensor:
        """(B * N, 64, fH, fW) what ``dtransform`` makes of the hints; 0 in a batch without any.

        An image of zeros has no spread, for which BatchNorm's running variance would shrink to
        nothing while the bias before it drifts: evaluation would then multiply noise by 300.
        """
        # Chosen on the device, and every parameter keeps a gradient for distributed training.
        return torch.where(hints.any(), self.dtransform(hints), 0.0)

    def prepare(self, batch_dict: Mapping[str, Any]) -> ViewGeometry:
        """What needs no features.

        Its sizes hang on the data, so that a GPU has to be waited for. Detectors put it into the
        batch before they queue anything: behind the image backbone the wait would be a long one.
        """
        return ViewGeometry(self.depth_hints(batch_dict).to(self.depths), self.plan(batch_dict))

    def pool(self, batch_dict: dict[str, Any], plan: PoolingPlan) -> torch.Tensor:
        """(B * X * Y * Z, OUT_CHANNEL): the sum of what the frustum holds in each cell."""
        depth = to_rows(batch_dict["depth_logits"]).softmax(1)
        context = to_rows(batch_dict["depth_context"])
        return bev_pool(depth, context, plan, self.kernels)

    @torch.no_grad()
    def depth_hints(self, batch_dict: Mapping[str, Any]) -> torch.Tensor:
        """(B * N, 1, H, W) metres, 0 where no visible LiDAR point falls."""
        lidar2image = batch_dict["lidar2image"]
        points = batch_dict.get("points")
        if points is None:
            return lidar2image.new_zeros(lidar2image.shape[:2].numel(), 1, *self.image_size)
        hidden = batch_dict.get("depth_hint_mask")
        depth, _ = lidar_depth_map(
            points,
            lidar2image,
            batch_dict["img_aug_matrix"],
            batch_dict["lidar_aug_matrix"],
            self.image_size,
            keep=None if hidden is None else ~hidden,
        )
        return depth.flatten(0, 1).unsqueeze(1)

    @torch.no_grad()
    def plan(self, batch_dict: Mapping[str, Any]) -> PoolingPlan:
        """The pooling plan of this batch; that of the last call while no matrix has changed."""
        matrices = tuple(batch_dict[key] for key in GEOMETRY_KEYS)
        if self._cached is not None and _same(self._cached[0], matrices):
            return self._cached[1]
        self._cached = None  # two plans need not be held at once
        plan = build_plan(self.cells(batch_dict), len(matrices[0]) * self.grid.num_cells)
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
        batch, cameras = batch_dict["lidar2image"].shape[:2]
        if len(features) != batch * cameras:
            raise DataError(
                f"image_fpn holds {len(features)} maps, but the calibration is of {batch} samples "
                f"with {cameras} cameras each"
            )


class OneChannelConv2d(nn.Conv2d):
    """1x1 convolution of (B, 1, H, W) maps as an outer product.

    oneDNN would pad the channel to sixteen, and copy the result out of a layout of sixteen.
    Parameters are those of ``nn.Conv2d(1, out_channels, 1)``.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__(1, out_channels, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, H, W)."""
        assert self.bias is not None
        weight = self.weight.view(1, -1, 1).expand(len(maps), -1, -1)
        rows = torch.baddbmm(self.bias.view(1, -1, 1), weight, maps.flatten(2))
        return rows.unflatten(2, maps.shape[2:])


def _check_options(module: FactorizedDepthLSSTransform, config: Any) -> None:
    where = "MODEL.VTRANSFORM"
    if module.rounding not in ROUNDINGS:
        raise ConfigError(f"{where}.ROUNDING {module.rounding!r} is not one of {ROUNDINGS}")
    if config.DOWNSAMPLE not in (1, 2):
        raise ConfigError(f"{where}.DOWNSAMPLE must be 1 or 2, not {config.DOWNSAMPLE!r}")
    if config.DOWNSAMPLE == 2 and module.grid.size[2] != 1:
        raise ConfigError(
            f"{where}.ZBOUND gives {module.grid.size[2]} layers; DOWNSAMPLE 2 convolves one"
        )
    expected = tuple(-(-size // HINT_STRIDE) for size in module.image_size)
    if module.feature_size != expected:
        raise ConfigError(
            f"{where}.FEATURE_SIZE {list(module.feature_size)} must be {list(expected)}, an eighth "
            f"of {where}.IMAGE_SIZE {list(module.image_size)}: the depth hints meet the features"
        )


def _build_dtransform() -> nn.Sequential:
    return nn.Sequential(
        *_activated(OneChannelConv2d(8)),
        *_conv_block(8, 32, 5, stride=4, bias=True),
        *_conv_block(32, 64, 5, stride=2, bias=True),
    )


def _build_depthnet(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        *_conv_block(in_channels, channels, 3, bias=True),
        *_conv_block(channels, channels, 3, bias=True),
        nn.Conv2d(channels, out_channels, 1),
    )


def _build_downsample(channels: int, factor: int) -> nn.Module:
    if factor == 1:
        return nn.Identity()
    return nn.Sequential(
        *_conv_block(channels, channels, 3, bias=False),
        *_conv_block(channels, channels, 3, stride=factor, bias=False),
        *_conv_block(channels, channels, 3, bias=False),
    )


def _conv_block(
    in_channels: int, out_channels: int, kernel: int, *, bias: bool, stride: int = 1
) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias
    )
    return _activated(convolution)


def _activated(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)


def _drop_stock_grid(state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """OpenPCDet stores its grid as parameters; ours follows from the configuration."""
    for key in STOCK_GRID_KEYS:
        state_dict.pop(prefix + key, None)


def _same(old: tuple[torch.Tensor, ...], new: tuple[torch.Tensor, ...]) -> bool:
    return all(a.device == b.device and torch.equal(a, b) for a, b in zip(old, new, strict=True))
