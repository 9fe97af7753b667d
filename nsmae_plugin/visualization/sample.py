"""One sample of a rendered batch as plain arrays, with its error numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsmae_plugin.errors import DataError
from nsmae_plugin.models.scores import cells_of_patches, psnr

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class DepthView:
    """A rendered depth map beside its target, in metres.

    Attributes:
        rendered: (h, w).
        target: (h, w), NaN where there is no target.
        hidden: (h, w), True where the network saw no LiDAR that bears on the target.
    """

    rendered: Array
    target: Array
    hidden: Mask

    @property
    def valid(self) -> Mask:
        return np.isfinite(self.target)

    @property
    def error(self) -> Array:
        """(h, w) absolute error, NaN where there is no target."""
        return np.abs(self.rendered - self.target)

    @property
    def seen(self) -> Array:
        """(h, w) the target in cells with visible LiDAR, NaN elsewhere."""
        return np.where(self.hidden, np.float32(np.nan), self.target)

    def mean_error(self, hidden: bool) -> float:
        """Mean absolute error over hidden or visible target cells; NaN when there are none."""
        cells = self.valid & (self.hidden == hidden)
        return float(self.error[cells].mean()) if cells.any() else float("nan")


@dataclass(frozen=True)
class CameraView:
    """What one camera gave, what the network saw of it, and what it rendered.

    Attributes:
        image, masked_image: (H, W, 3) colours in [0, 1].
        target_rgb, rendered_rgb: (fH, fW, 3) colours in [0, 1].
        hidden, visible: (fH, fW) cells within hidden and within visible patches, as far as the
            image fills them.
        depth: along the optical axis; None when no depth was rendered.
    """

    name: str
    image: Array
    masked_image: Array
    target_rgb: Array
    rendered_rgb: Array
    hidden: Mask
    visible: Mask
    depth: DepthView | None

    def psnr(self, hidden: bool) -> float:
        """PSNR in dB over hidden or visible cells; NaN when there are none."""
        cells = self.hidden if hidden else self.visible
        if not cells.any():
            return float("nan")
        difference = (self.rendered_rgb - self.target_rgb)[cells].astype(np.float64)
        return psnr(float((difference**2).mean()))


@dataclass(frozen=True)
class SampleView:
    """All views of one sample.

    Attributes:
        bev: depth below the top of the range, from above; rows along y, columns along x.
        bev_extent: x_min, x_max, y_min, y_max of ``bev`` in the LiDAR frame, metres.
    """

    token: str
    cameras: tuple[CameraView, ...]
    bev: DepthView | None
    bev_extent: tuple[float, float, float, float]


def extract_sample(
    batch: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    index: int,
    point_cloud_range: Sequence[float],
) -> SampleView:
    """Take sample ``index`` out of a batch and of what the network rendered in evaluation mode.

    Raises:
        DataError: when nothing was rendered at all.
    """
    rendered = predictions[index]
    if "rendered_rgb" not in rendered and "rendered_bev_depth" not in rendered:
        raise DataError("the network rendered nothing: it has no PERSPECTIVE_HEAD and no BEV_HEAD")
    cameras: tuple[CameraView, ...] = ()
    if "rendered_rgb" in rendered:
        names = camera_names(batch, index)
        cameras = tuple(
            _camera(batch, rendered, (index, slot), name) for slot, name in enumerate(names)
        )
    bev = None
    if "rendered_bev_depth" in rendered:
        bev = _depth(rendered, ..., "rendered_bev_depth", "target_bev_depth", "target_bev")
    x_min, y_min, _, x_max, y_max, _ = (float(value) for value in point_cloud_range)
    return SampleView(_token(batch, index), cameras, bev, (x_min, x_max, y_min, y_max))


def camera_names(batch: Mapping[str, Any], index: int) -> list[str]:
    """Names of the cameras: nuScenes' folder of each image, or ``camera 0`` and so on."""
    count = batch["camera_imgs"].shape[1]
    paths = batch.get("image_paths")
    folders = (
        [PurePath(str(path)).parent.name for path in paths[index]] if paths is not None else []
    )
    if len(folders) == count and len(set(folders)) == count and all(folders):
        return folders
    return [f"camera {slot}" for slot in range(count)]


def _token(batch: Mapping[str, Any], index: int) -> str:
    if "metadata" in batch:
        return str(batch["metadata"][index]["token"])
    return str(batch["frame_id"][index])


def _camera(
    batch: Mapping[str, Any], rendered: Mapping[str, Any], at: tuple[int, int], name: str
) -> CameraView:
    index, slot = at
    target = rendered["target_rgb"][slot]
    grid = tuple(target.shape[-2:])
    filled = rendered["target_rgb_mask"][slot]
    hidden, visible = torch.zeros_like(filled), filled
    if "image_patch_mask" in rendered:
        hidden, visible = cells_of_patches(rendered["image_patch_mask"][slot], grid)
    clean = batch["camera_imgs"][at]
    masked = rendered["masked_camera_imgs"][slot] if "masked_camera_imgs" in rendered else clean
    depth = None
    if "rendered_depth" in rendered:
        depth = _depth(rendered, slot, "rendered_depth", "target_depth", "target_depth")
    return CameraView(
        name=name,
        image=_colours(clean, batch, index),
        masked_image=_colours(masked, batch, index),
        target_rgb=_channels_last(target),
        rendered_rgb=_channels_last(rendered["rendered_rgb"][slot]),
        hidden=_numpy(hidden & filled),
        visible=_numpy(visible & filled),
        depth=depth,
    )


def _depth(sample: Mapping[str, Any], at: Any, rendered: str, target: str, flags: str) -> DepthView:
    values = _numpy(sample[rendered][at])
    if f"{flags}_mask" not in sample:
        nothing = np.full_like(values, np.nan)
        return DepthView(values, nothing, np.ones(values.shape, dtype=bool))
    truth = np.where(_numpy(sample[f"{flags}_mask"][at]), _numpy(sample[target][at]), np.nan)
    return DepthView(values, truth.astype(np.float32), _numpy(sample[f"{flags}_hidden"][at]))


def _colours(image: Tensor, batch: Mapping[str, Any], index: int) -> Array:
    """(3, H, W) normalised -> (H, W, 3) in [0, 1]; a learnt mask token may leave the range."""
    mean, std = (batch[key][index].reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    return _channels_last(image * std + mean)


def _channels_last(image: Tensor) -> Array:
    return _numpy(image.movedim(0, -1).clamp(0, 1))


def _numpy(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.bool else tensor.float()).numpy()
