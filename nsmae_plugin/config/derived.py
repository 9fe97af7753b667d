"""Values of MODEL derived from other sections: filled in if absent, checked if given.

OpenPCDet's YAML files repeat such values and its modules read them, so modules find them in their
sections on either host. Only modules whose arithmetic is known, under OpenPCDet's names, are looked
at; where a value does not follow, it has to be given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from nsmae_plugin.config.bev_grids import complete_head
from nsmae_plugin.config.known_modules import (
    BACKBONES,
    LEVEL_CHANNELS,
    LIDAR_STRIDE,
    LIFT_SPLAT,
    SWIN_STRIDE,
    height_levels,
    name_of,
    settle,
    voxel_size,
)
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.intervals import VOXELS, count_cells


def complete(model_cfg: Any, dataset: Any) -> Any:
    """A copy of MODEL with the values that follow from others; those that are given are checked.

    Args:
        dataset: gives ``point_cloud_range``, ``voxel_size`` and ``grid_size``, and in
            ``dataset_cfg`` perhaps CAMERA_CONFIG.

    Raises:
        ConfigError: a value contradicts the rest of the configuration, or does not follow from it
            and is missing; or the BEV grids do not fit together.
    """
    model_cfg = copy.deepcopy(model_cfg)
    if name_of(model_cfg, "MASK_TOKEN") == "ImageMaskToken":
        _complete_mask_token(model_cfg, dataset)
    names = (name_of(model_cfg, "MAP_TO_BEV"), name_of(model_cfg, "VTRANSFORM"))
    if {*names} & {"HeightCompression", *LIFT_SPLAT} and dataset.grid_size is None:
        raise ConfigError(
            "no step of DATA_CONFIG.DATA_PROCESSOR sets the grid: add transform_points_to_voxels, "
            "or transform_points_to_voxels_placeholder where there are no points"
        )
    levels = _image_levels(model_cfg)
    if name_of(model_cfg, "NECK") == "GeneralizedLSSFPN":
        _complete_neck(model_cfg, levels)
    if name_of(model_cfg, "VTRANSFORM") in LIFT_SPLAT:
        _complete_images(model_cfg, dataset, levels)
        _complete_bounds(model_cfg, dataset)
    if name_of(model_cfg, "MAP_TO_BEV") == "HeightCompression":
        _complete_height(model_cfg, int(dataset.grid_size[2]))
    if name_of(model_cfg, "FUSER") == "ConvFuser":
        _complete_fuser(model_cfg)
    complete_head(model_cfg, dataset)
    if name_of(model_cfg, "DENSE_HEAD") == "CenterHead" and hasattr(dataset, "class_names"):
        _check_groups(model_cfg.DENSE_HEAD.CLASS_NAMES_EACH_HEAD, dataset.class_names)
    if name_of(model_cfg, "DENSE_HEAD") == "TransFusionHead" and hasattr(dataset, "class_names"):
        # No head reads it, but records of earlier versions have it.
        model_cfg.DENSE_HEAD.setdefault("NUM_CLASSES", len(dataset.class_names))
    return model_cfg


def described_data(config: Any) -> Any | None:
    """The dataset description for :func:`complete`; None if the configuration lacks it."""
    data_cfg = config.DATA_CONFIG
    voxels, extent = voxel_size(data_cfg), data_cfg.get("POINT_CLOUD_RANGE")
    if voxels is None or extent is None:
        return None
    return SimpleNamespace(
        dataset_cfg=data_cfg,
        class_names=config.CLASS_NAMES,
        point_cloud_range=extent,
        voxel_size=voxels,
        grid_size=count_cells(zip(extent[:3], extent[3:], voxels, strict=True), VOXELS),
    )


def _complete_mask_token(model_cfg: Any, dataset: Any) -> None:
    data = getattr(dataset, "dataset_cfg", None) or {}
    steps = {one.get("NAME"): one for one in data.get("DATA_PROCESSOR") or []}
    size = steps.get("mask_image_patches", {}).get("PATCH_SIZE")
    reason = f"DATA_CONFIG.DATA_PROCESSOR.mask_image_patches.PATCH_SIZE is {size}"
    if size is None:
        reason = "pixels, as in mask_image_patches, which DATA_CONFIG.DATA_PROCESSOR lacks"
    settle(model_cfg, "MASK_TOKEN.PATCH_SIZE", size, reason)


def finest_image_map(model_cfg: Any) -> tuple[int, int] | None:
    """Channels of the neck's finest map, and pixels per feature; None if they are not known.

    Args:
        model_cfg: the section MODEL.
    """
    levels = _image_levels(model_cfg)
    if not levels or name_of(model_cfg, "NECK") != "GeneralizedLSSFPN":
        return None
    return model_cfg.NECK.OUT_CHANNELS, next(iter(levels))


def _image_levels(model_cfg: Any) -> dict[int, int]:
    """Stride in pixels -> channels, of the maps that the image backbone gives; empty: unknown."""
    config = model_cfg.get("IMAGE_BACKBONE")
    if name_of(model_cfg, "IMAGE_BACKBONE") != "SwinTransformer":
        return {}
    return {
        SWIN_STRIDE * 2**index: config.EMBED_DIMS * 2**index for index in sorted(config.OUT_INDICES)
    }


def _complete_neck(model_cfg: Any, levels: Mapping[int, int]) -> None:
    channels = list(levels.values())
    reason = f"MODEL.IMAGE_BACKBONE gives maps of {channels} channels (EMBED_DIMS, OUT_INDICES)"
    if not levels:
        reason = "the channels of each map of MODEL.IMAGE_BACKBONE"
    settle(model_cfg, "NECK.IN_CHANNELS", channels or None, reason)
    for key, value in {"START_LEVEL": 0, "END_LEVEL": -1, "NUM_OUTS": len(channels)}.items():
        model_cfg.NECK.setdefault(key, value)


def _complete_images(model_cfg: Any, dataset: Any, levels: Mapping[int, int]) -> None:
    channels = None
    if name_of(model_cfg, "NECK") == "GeneralizedLSSFPN":
        channels = model_cfg.NECK.OUT_CHANNELS
    reason = f"MODEL.NECK.OUT_CHANNELS is {channels}" if channels else "the channels of MODEL.NECK"
    settle(model_cfg, "VTRANSFORM.IN_CHANNEL", channels, reason)

    data = getattr(dataset, "dataset_cfg", None) or {}
    image = (data.get("CAMERA_CONFIG") or {}).get("IMAGE", {}).get("FINAL_DIM")
    image = None if image is None else list(image)
    reason = "height and width of the images in pixels"
    if image:
        reason = f"DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM is {image}"
    settle(model_cfg, "VTRANSFORM.IMAGE_SIZE", image, reason)

    features, reason = None, "height and width of the finest map of MODEL.NECK"
    if levels and channels:
        stride = next(iter(levels))
        features = [-(-side // stride) for side in model_cfg.VTRANSFORM.IMAGE_SIZE]
        reason = f"the finest map of MODEL.IMAGE_BACKBONE has one feature for {stride} pixels"
    settle(model_cfg, "VTRANSFORM.FEATURE_SIZE", features, reason)


def _complete_bounds(model_cfg: Any, dataset: Any) -> None:
    """XBOUND and YBOUND: the range of the points, in the cells of the LiDAR branch.

    They may differ where there is no LiDAR branch, so what is given is checked with the grids.
    """
    config = model_cfg.VTRANSFORM
    lidar = name_of(model_cfg, "BACKBONE_3D")
    for axis, key in enumerate(("XBOUND", "YBOUND")):
        if config.get(key) is not None:
            continue
        if lidar is not None and lidar not in BACKBONES:
            raise ConfigError(
                f"missing key MODEL.VTRANSFORM.{key}: [min, max, step] in metres, the grid of "
                f"MODEL.BACKBONE_3D {lidar} before DOWNSAMPLE"
            )
        # Rounded, since ranges pass through float32.
        low, high = (round(float(dataset.point_cloud_range[axis + side]), 4) for side in (0, 3))
        step = float(dataset.voxel_size[axis]) * LIDAR_STRIDE / config.get("DOWNSAMPLE", 1)
        config[key] = [low, high, step]


def _complete_height(model_cfg: Any, voxels: int) -> None:
    if name_of(model_cfg, "BACKBONE_3D") not in BACKBONES:
        reason = "channels times levels of height of MODEL.BACKBONE_3D"
        settle(model_cfg, "MAP_TO_BEV.NUM_BEV_FEATURES", None, reason)
        return
    levels = height_levels(voxels, model_cfg.BACKBONE_3D.get("last_pad", 0))
    if levels < 1:
        raise ConfigError(
            f"{voxels} voxels along z are too few for MODEL.BACKBONE_3D, which needs 24 or more: "
            "choose a smaller VOXEL_SIZE or a higher DATA_CONFIG.POINT_CLOUD_RANGE"
        )
    reason = (
        f"{voxels} voxels along z (VOXEL_SIZE, DATA_CONFIG.POINT_CLOUD_RANGE) leave {levels} "
        f"levels of {LEVEL_CHANNELS} channels"
    )
    settle(model_cfg, "MAP_TO_BEV.NUM_BEV_FEATURES", levels * LEVEL_CHANNELS, reason)


def _complete_fuser(model_cfg: Any) -> None:
    keys = {"VTRANSFORM": "OUT_CHANNEL", "MAP_TO_BEV": "NUM_BEV_FEATURES"}
    widths: dict[str, Any] = {
        f"MODEL.{section}.{key}": (model_cfg.get(section) or {}).get(key)
        for section, key in keys.items()
    }
    total, reason = None, f"the sum of {' and '.join(widths)}"
    if None not in widths.values():
        total = sum(widths.values())
        reason = " and ".join(f"{key} {value}" for key, value in widths.items()) + f" make {total}"
    settle(model_cfg, "FUSER.IN_CHANNEL", total, reason)


def _check_groups(groups: Sequence[Sequence[str]], class_names: Sequence[str]) -> None:
    """Check that groups hold each class once; other names in them are skipped by the head."""
    found = sorted(name for group in groups for name in group if name in class_names)
    if found != sorted(class_names):
        raise ConfigError(
            f"MODEL.DENSE_HEAD.CLASS_NAMES_EACH_HEAD {[list(one) for one in groups]} must hold "
            f"each of CLASS_NAMES {list(class_names)} once"
        )
