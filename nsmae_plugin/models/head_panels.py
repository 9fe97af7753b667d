"""Panels of the render heads: renderings and targets, with errors in the titles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsmae_plugin.models.scores import patch_cells, patch_pixels, psnr

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

CAMERA_DEPTH = "depth along the optical axis (m)"
BEV_DEPTH = "depth below the top of the range (m)"
DEPTH_ERROR = "|rendered − target| (m)"


@dataclass(frozen=True)
class Panel:
    """One panel of the pictures of a sample.

    Attributes:
        sheet: the picture that the panel belongs to, ``<sheet>.png``: the name of a camera, or
            ``bev``. In the overview, a row.
        title: printed above the panel.
        values: (h, w, 3) colours in [0, 1], or (h, w) numbers, NaN where there are none.
        scale: quantity and unit of the numbers, for the colour bar; None for colours. All panels
            of a head with the same scale have the same limits.
        error: the numbers are absolute errors, drawn in colours of their own.
        extent: x_min, x_max, y_min, y_max of a bird's-eye view in the LiDAR frame, metres, with
            rows along y; None for an image.
    """

    sheet: str
    title: str
    values: np.ndarray
    scale: str | None = None
    error: bool = False
    extent: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class DepthView:
    """A rendered depth map and its target, in metres.

    Attributes:
        rendered: (h, w).
        target: (h, w), NaN where there is no target.
        hidden: (h, w), true where the network saw no LiDAR point that belongs to the target.
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
        """(h, w) target in cells with visible LiDAR, NaN elsewhere."""
        return np.where(self.hidden, np.float32(np.nan), self.target)

    def mean_error(self, hidden: bool) -> float:
        """Mean absolute error over hidden or visible target cells; NaN if there are none."""
        cells = self.valid & (self.hidden == hidden)
        return float(self.error[cells].mean()) if cells.any() else float("nan")

    def title(self) -> str:
        """``rendered: error … hidden, … visible``."""
        hidden, visible = (number(self.mean_error(hidden), "m") for hidden in (True, False))
        return f"rendered: error {hidden} hidden, {visible} visible"

    def seen_title(self, what: str) -> str:
        """The share of the cells that have a target and visible LiDAR."""
        share = percent(np.isfinite(self.seen))
        return f"target cells with a visible {what}: {share} of all cells"


def depth_view(sample: Mapping[str, Any], view: str, slot: int | None = None) -> DepthView:
    """The depth map ``rendered_<view>`` of a sample.

    Args:
        sample: see :class:`~nsmae_plugin.models.render_head.RenderHead`.
        view: ``depth`` or ``bev_depth``.
        slot: the camera; None for a view without cameras.
    """
    at = ... if slot is None else slot
    target = view if slot is not None else view.removesuffix("_depth")
    valid = _numpy(sample[f"target_{target}_mask"][at])
    depth = np.where(valid, _numpy(sample[f"target_{view}"][at]), np.nan).astype(np.float32)
    hidden = _numpy(sample[f"target_{target}_hidden"][at])
    return DepthView(_numpy(sample[f"rendered_{view}"][at]), depth, hidden)


def camera_panels(sample: Mapping[str, Any]) -> list[Panel]:
    """Every camera in four rows: input, colour, depth; depth with visible LiDAR, and the error."""
    return [panel for slot in _slots(sample) for panel in _camera_sheet(sample, slot)]


def camera_overview(sample: Mapping[str, Any]) -> list[Panel]:
    """Every camera in one row: masked input, and target and rendering of colour and depth."""
    return [panel for slot in _slots(sample) for panel in _camera_row(sample, slot)]


def image_panels(sample: Mapping[str, Any]) -> list[Panel]:
    """Every camera: masked input, prediction; hidden patches filled in from it, target."""
    return [panel for slot in _slots(sample) for panel in _image_sheet(sample, slot)]


def bev_panels(sample: Mapping[str, Any]) -> list[Panel]:
    """The bird's-eye view in two rows: depth; depth with visible LiDAR, and the error."""
    depth, extent = depth_view(sample, "bev_depth"), _extent(sample)
    target = f"target: LiDAR in {percent(depth.valid)} of the cells"
    return [
        Panel("bev", target, depth.target, BEV_DEPTH, extent=extent),
        Panel("bev", depth.title(), depth.rendered, BEV_DEPTH, extent=extent),
        Panel("bev", depth.seen_title("voxel"), depth.seen, BEV_DEPTH, extent=extent),
        Panel("bev", "error at the target cells", depth.error, DEPTH_ERROR, True, extent),
    ]


def bev_overview(sample: Mapping[str, Any]) -> list[Panel]:
    """The bird's-eye view in one row: depth with visible LiDAR, target and rendering."""
    depth, extent = depth_view(sample, "bev_depth"), _extent(sample)
    return [
        Panel("bev", depth.seen_title("voxel"), depth.seen, BEV_DEPTH, extent=extent),
        Panel("bev", "target from above", depth.target, BEV_DEPTH, extent=extent),
        Panel("bev", depth.title(), depth.rendered, BEV_DEPTH, extent=extent),
    ]


def _camera_sheet(sample: Mapping[str, Any], slot: int) -> list[Panel]:
    name, depth = sample["camera_names"][slot], depth_view(sample, "depth", slot)
    image, target = _image(sample, "camera_imgs", slot), _channels_last(sample["target_rgb"][slot])
    size, grid = ("{}×{}".format(*one.shape[:2]) for one in (image, target))
    hidden, valid = percent(_numpy(_cells(sample, slot)[0])), percent(depth.valid)
    masked, seen = _image(sample, "masked_camera_imgs", slot), depth.seen_title("LiDAR point")
    return [
        Panel(name, f"input image ({size} pixels)", image),
        Panel(name, f"masked input: {hidden} of the cells in hidden patches", masked),
        Panel(name, f"target colour ({grid} cells)", target),
        _rendered_colour(sample, slot),
        Panel(name, f"target depth: LiDAR in {valid} of the cells", depth.target, CAMERA_DEPTH),
        Panel(name, depth.title(), depth.rendered, CAMERA_DEPTH),
        Panel(name, seen, depth.seen, CAMERA_DEPTH),
        Panel(name, "error of the rendered depth", depth.error, DEPTH_ERROR, error=True),
    ]


def _camera_row(sample: Mapping[str, Any], slot: int) -> list[Panel]:
    name, depth = sample["camera_names"][slot], depth_view(sample, "depth", slot)
    return [
        Panel(name, "masked input", _image(sample, "masked_camera_imgs", slot)),
        Panel(name, "target colour", _channels_last(sample["target_rgb"][slot])),
        _rendered_colour(sample, slot),
        Panel(name, "target depth", depth.target, CAMERA_DEPTH),
        Panel(name, depth.title(), depth.rendered, CAMERA_DEPTH),
    ]


def _image_sheet(sample: Mapping[str, Any], slot: int) -> list[Panel]:
    name, masked = sample["camera_names"][slot], _image(sample, "masked_camera_imgs", slot)
    rendered, target = sample["rendered_image"][slot], sample["target_image"][slot]
    hidden, visible = (one[slot] for one in patch_pixels(sample))
    filled_in = torch.where(hidden, rendered, target)
    title = f"predicted: PSNR {_psnrs(rendered, target, (hidden, visible))}"
    return [
        Panel(name, f"masked input: {percent(_numpy(hidden))} of the pixels hidden", masked),
        Panel(name, title, _channels_last(rendered)),
        Panel(name, "prediction in hidden patches", _channels_last(filled_in)),
        Panel(name, "target image", _channels_last(target)),
    ]


def _rendered_colour(sample: Mapping[str, Any], slot: int) -> Panel:
    """The rendered colour; its title gives the PSNR on hidden and on visible cells."""
    rendered, target = sample["rendered_rgb"][slot], sample["target_rgb"][slot]
    title = f"rendered: PSNR {_psnrs(rendered, target, _cells(sample, slot))}"
    return Panel(sample["camera_names"][slot], title, _channels_last(rendered))


def _psnrs(rendered: Tensor, target: Tensor, sets: Sequence[Tensor]) -> str:
    """The PSNR on hidden and on visible cells or pixels, for a title; ``sets``: these, bool."""
    square = (rendered.double() - target.double()).square().mean(0)
    means = [float(square[cells].mean()) if cells.any() else None for cells in sets]
    errors = [number(math.nan if one is None else psnr(one), "dB") for one in means]
    return "{} hidden, {} visible".format(*errors)


def _cells(sample: Mapping[str, Any], slot: int) -> tuple[Tensor, Tensor]:
    """(h, w) bool: cells in hidden and in visible patches, as far as the image fills them."""
    return patch_cells(sample["image_patch_mask"][slot], sample["target_rgb_mask"][slot])


def _slots(sample: Mapping[str, Any]) -> range:
    return range(len(sample["camera_names"]))


def _extent(sample: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x_min, y_min, _, x_max, y_max, _ = map(float, sample["point_cloud_range"])
    return x_min, x_max, y_min, y_max


def _image(sample: Mapping[str, Any], key: str, slot: int) -> Array:
    """(H, W, 3) in [0, 1] without the normalisation; a learnt mask token may leave the range."""
    mean, std = (sample[one].reshape(3, 1, 1) for one in ("image_mean", "image_std"))
    return _channels_last(sample[key][slot] * std + mean)


def _channels_last(image: Tensor) -> Array:
    return _numpy(image.movedim(0, -1).clamp(0, 1))


def _numpy(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.bool else tensor.float()).numpy()


def number(value: float, unit: str) -> str:
    """A value with its unit for a title; a dash for NaN."""
    return f"{value:.2f} {unit}" if not np.isnan(value) else "–"


def percent(mask: Mask) -> str:
    """Share of true cells, in per cent."""
    return f"{100 * float(np.mean(mask)):.0f} %"
