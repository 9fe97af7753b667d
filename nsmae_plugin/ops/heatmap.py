"""Heatmaps of object centres: targets and loss, shared by the detection heads.

A heatmap is (H, W) in cells of the BEV feature map, rows along y, columns along x. Each object is a
Gaussian whose peak is exactly 1 (Zhou et al., "Objects as Points", arXiv 1904.07850).
"""

import torch

CLIP = 1e-4  # probabilities stay this far from 0 and 1
RARE = -2.19  # bias of a classifier whose first answer is a probability of 0.1
PEAK_POWER, TAIL_POWER = 2, 4  # alpha and beta of CornerNet's focal loss


def gaussian_radius(
    height: torch.Tensor, width: torch.Tensor, min_overlap: float = 0.5
) -> torch.Tensor:
    """Radius in cells within which shifted boxes still overlap by about ``min_overlap``.

    CornerNet's three cases (shifted, inside, outside) with the formula that CenterPoint and
    OpenPCDet use. It does not divide the roots by the leading coefficients of their equations, so
    the radius is not quite the geometric one. Kept, because published weights were trained with it.

    Args:
        height, width: (K,) sizes of the boxes in cells.
        min_overlap: intersection over union, in (0, 1).

    Returns:
        (K,) radii, not rounded.
    """
    # Multiplied in OpenPCDet's order: the callers round down, where the last digit can decide.
    around = height + width
    shifted = _root(around, width * height * (1 - min_overlap) / (1 + min_overlap), 1.0)
    inside = _root(2 * around, (1 - min_overlap) * width * height, 4.0)
    outside = _root(-2 * min_overlap * around, (min_overlap - 1) * width * height, 4 * min_overlap)
    return torch.minimum(torch.minimum(shifted, inside), outside)


def _root(b: torch.Tensor, c: torch.Tensor, a: float) -> torch.Tensor:
    return (b + (b**2 - 4 * a * c).sqrt()) / 2


def draw_gaussian(heatmap: torch.Tensor, center: tuple[int, int], radius: int) -> None:
    """Raise ``heatmap`` (H, W), in place, to a Gaussian around ``center`` where that is larger.

    The window is 2 * radius + 1 cells wide and three standard deviations reach its edge. A window
    that leaves the map is cut off; one that lies outside changes nothing.

    Args:
        center: column (x) and row (y) of the peak.
    """
    rows = _window(center[1], radius, heatmap.shape[0])
    columns = _window(center[0], radius, heatmap.shape[1])
    if not (rows and columns):
        return
    # float64 until the end, as OpenPCDet: a float32 exponential differs in the last digits.
    down = torch.tensor(rows, dtype=torch.float64) - center[1]
    along = torch.tensor(columns, dtype=torch.float64) - center[0]
    sigma = (2 * radius + 1) / 6
    gaussian = torch.exp(-(down[:, None] ** 2 + along**2) / (2 * sigma**2)).to(heatmap)
    window = heatmap[rows.start : rows.stop, columns.start : columns.stop]
    torch.maximum(window, gaussian, out=window)


def _window(middle: int, radius: int, size: int) -> range:
    return range(max(0, middle - radius), min(size, middle + radius + 1))


def clipped_sigmoid(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities in [CLIP, 1 - CLIP], float32, with the logarithms of both ends finite."""
    return logits.float().sigmoid().clamp(CLIP, 1 - CLIP)


def gaussian_focal_loss(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """CornerNet's focal loss, summed and divided by the number of peaks (at least 1).

    A peak, where ``target`` is exactly 1, costs ``-(1 - p)^2 log p``; any other cell costs
    ``-(1 - target)^4 p^2 log(1 - p)``: little close to a peak.

    Args:
        probability: any shape, strictly between 0 and 1 (:func:`clipped_sigmoid`).
        target: the same shape, in [0, 1].

    Returns:
        A scalar, float32.
    """
    probability, target = probability.float(), target.float()
    peak = target == 1
    at_peak = (1 - probability) ** PEAK_POWER * probability.log()
    beside = (1 - target) ** TAIL_POWER * probability**PEAK_POWER * torch.log1p(-probability)
    return -torch.where(peak, at_peak, beside).sum() / peak.sum().clamp(min=1)
