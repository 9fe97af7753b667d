"""BEV cells of the (pixel, depth bin) pairs of a frustum, sorted for pooling.

``P`` pixels of all images of the batch, row ``image * fH * fW + v * fW + u``; ``D`` depth bins;
``K`` pairs inside the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from nsmae_plugin.geometry.bev_grid import BEVGrid


def frustum_cells(
    rays: torch.Tensor,
    origins: torch.Tensor,
    depths: torch.Tensor,
    grid: BEVGrid,
    rounding: str = "floor",
) -> torch.Tensor:
    """BEV cell of every (pixel, bin) pair.

    Args:
        rays: (B, N, R, 3), metres per metre of depth; origins: (B, N, 3), metres; both in the
            frame of ``grid``.
        depths: (D,) metres.
        rounding: 'floor' keeps what lies inside the grid. 'truncate' rounds towards zero, as
            OpenPCDet's ``.long()`` does: one cell more below each lower face is folded into the
            first cell, which checkpoints trained there expect.

    Returns:
        (B * N * R, D) int32: ((sample * X + x) * Y + y) * Z + z, or -1 outside the grid.
    """
    batch, cameras, pixels, _ = rays.shape
    step, lower = rays.new_tensor(grid.step), rays.new_tensor(grid.lower)
    rays, origins = rays / step, (origins - lower) / step
    cells = torch.empty(batch, cameras, pixels, len(depths), dtype=torch.int32, device=rays.device)
    # Camera by camera, so that the intermediate results stay in the processor's cache.
    for sample in range(batch):
        for camera in range(cameras):
            cells[sample, camera] = _camera_cells(
                rays[sample, camera],
                origins[sample, camera],
                depths,
                grid,
                rounding,
                sample * grid.num_voxels,
            )
    return cells.flatten(0, 2)


def _camera_cells(rays, origin, depths, grid: BEVGrid, rounding: str, first) -> torch.Tensor:
    above = torch.gt if rounding == "truncate" else torch.ge
    lowest = -1.0 if rounding == "truncate" else 0.0
    cell = torch.zeros(len(rays), len(depths), dtype=torch.int32, device=rays.device)
    inside = torch.ones_like(cell, dtype=torch.bool)
    for axis, count in enumerate(grid.size):
        position = rays[:, axis : axis + 1] * depths + origin[axis]
        inside &= above(position, lowest) & (position < count)
        cell.mul_(count).add_(position.int())
    return cell.add_(first).masked_fill_(~inside, -1)


@dataclass(frozen=True)
class PoolingPlan:
    """The cell of every (pixel, bin) pair; depends on the geometry only. All int32.

    Attributes:
        cell_pixels, cell_pairs: (K,) pixel, and pixel * D + bin, of the pairs sorted by cell.
        cell_offsets: (cells + 1,) where each cell's pairs begin.
        pixel_cells, pixel_pairs: (K,) cell, and pixel * D + bin, of the pairs sorted by pixel.
        pixel_offsets: (P + 1,) where each pixel's pairs begin.
        num_bins: D.
    """

    cell_pixels: torch.Tensor
    cell_pairs: torch.Tensor
    cell_offsets: torch.Tensor
    pixel_cells: torch.Tensor
    pixel_pairs: torch.Tensor
    pixel_offsets: torch.Tensor
    num_bins: int

    @cached_property
    def longest_cells_first(self) -> torch.Tensor:
        """(cells,) int32: the cells from that with the most pairs to those with none."""
        return self.cell_offsets.diff().sort(descending=True, stable=True).indices.int()


def build_plan(cells: torch.Tensor, num_cells: int) -> PoolingPlan:
    """Sort the pairs of one geometry.

    Args:
        cells: (P, D) int32, BEV cell of each pair, in [0, num_cells), or -1 outside the grid.
        num_cells: rows of the pooled result.
    """
    inside = cells >= 0
    pairs = inside.flatten().nonzero().squeeze(1)
    pixel_cells = cells.flatten().index_select(0, pairs)
    pairs = pairs.int()
    order = pixel_cells.sort(stable=True).indices
    cell_pairs = pairs.index_select(0, order)
    return PoolingPlan(
        cell_pixels=cell_pairs.div(cells.shape[1], rounding_mode="trunc"),
        cell_pairs=cell_pairs,
        cell_offsets=_offsets(torch.bincount(pixel_cells, minlength=num_cells)),
        pixel_cells=pixel_cells,
        pixel_pairs=pairs,
        pixel_offsets=_offsets(inside.sum(1, dtype=torch.int32)),
        num_bins=cells.shape[1],
    )


def _offsets(counts: torch.Tensor) -> torch.Tensor:
    return F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
