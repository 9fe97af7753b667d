"""Prediction on made-up data: latency, memory, and whether OpenPCDet's modules agree.

``python -m nsmae_plugin.benchmark.inference VARIANT --folder F ...`` measures one variant in this
process and prints JSON. The first variant leaves its weights in the folder, the others load them;
all leave their predictions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
import torch

from nsmae_plugin import host
from nsmae_plugin.benchmark.inputs import made_up_batch
from nsmae_plugin.benchmark.measure import MeasurementError, isolated_parser, measure_calls
from nsmae_plugin.benchmark.step import build_model
from nsmae_plugin.config import load_config
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.depth_map import image_returns
from nsmae_plugin.models.view_transform import STOCK_GRID_KEYS

VARIANTS = ("factorised", "openpcdet")
# An untrained heatmap has near-ties among its best cells: roundings decide some of the boxes.
FOUND = 0.9  # share of the boxes that must have a partner
SAME_SCORE = 1e-3  # largest difference of the sorted scores
SAME_BOX = 0.01  # metres between the centres of partners
SAME_MASK = 1e-3  # largest difference of a probability

Predictions = list[dict[str, torch.Tensor]]


def prepare(config: Any) -> Any:
    """The configuration with OpenPCDet's rule for points at the lower faces of the BEV grid.

    Raises:
        ConfigError: the network predicts nothing.
    """
    if not any(config.MODEL.get(key) for key in ("DENSE_HEAD", "MAP_HEAD")):
        raise ConfigError(
            f"MODEL.NAME {config.MODEL.NAME} predicts neither boxes nor a map; measure its "
            "training step instead (tools/benchmark.py step)"
        )
    if config.MODEL.get("VTRANSFORM") is not None:
        config.MODEL.VTRANSFORM.ROUNDING = "truncate"
    return config


def without_collisions(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with at most one LiDAR point in every pixel.

    OpenPCDet's depth maps take any point of a pixel, ours the nearest: only so are they equal.
    """
    if "camera_imgs" not in batch:
        return batch
    height, width = batch["camera_imgs"].shape[-2:]
    points = batch["points"]
    lidar2image, img_aug = batch["lidar2image"], batch["img_aug_matrix"]
    lidar_aug = batch["lidar_aug_matrix"]
    returns = image_returns(points, lidar2image, img_aug, lidar_aug, (height, width))
    column, row = returns.pixel.long().unbind(1)
    pixel = (returns.image * height + row) * width + column
    order = pixel.argsort()
    follows = pixel[order].diff(prepend=pixel.new_full((1,), -1)) == 0
    kept = torch.ones(len(points), dtype=torch.bool, device=points.device)
    kept[returns.point[order][follows]] = False
    return {**batch, "points": points[kept]}


def share_weights(model: Any, path: Path) -> None:
    """Load the weights of the first variant, or leave them for the others.

    Raises:
        MeasurementError: the networks have different parameters.
    """
    if not path.exists():
        torch.save(model.state_dict(), path)
        return
    missing, unexpected = model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    own = {f"vtransform.{key}" for key in STOCK_GRID_KEYS}
    differing = sorted({*missing, *unexpected} - own)
    if differing:
        raise MeasurementError(f"the networks differ in {', '.join(differing[:3])}")


def measure(
    config: Any, variant: str, batch: int, device: torch.device, repeats: int, folder: Path
) -> dict[str, list[float]]:
    """Seconds and MiB of a prediction; leaves weights and predictions in the folder."""
    model = build_model(prepare(config), variant)
    share_weights(model, folder / "weights.pth")
    model = model.to(device).eval()
    inputs = without_collisions(host.to_device(made_up_batch(config, batch, mode="test"), device))
    predictions: list[Predictions] = []

    def predict() -> None:
        with torch.inference_mode():
            predictions[:] = [model(dict(inputs))[0]]

    measured = measure_calls(predict, device, repeats)
    kept = [{key: value.cpu() for key, value in one.items()} for one in predictions[0]]
    torch.save(kept, folder / f"{variant}.pth")
    return measured


def agreement(folder: Path, variants: Sequence[str]) -> dict[str, float]:
    """How far the predictions of the variants agree; empty of a single variant.

    Returns:
        ``boxes found``, the smallest share of a sample's boxes that have a partner of the same
        class within a centimetre; ``score difference``, the largest one of the sorted scores;
        ``mask difference``, the largest one of a probability.
    """
    if len(variants) < 2:
        return {}
    pairs = list(zip(*(torch.load(folder / f"{name}.pth") for name in variants), strict=True))
    result = {}
    if "pred_boxes" in pairs[0][0]:
        result["boxes found"] = min(_share_found(*pair) for pair in pairs)
        result["score difference"] = max(_score_difference(*pair) for pair in pairs)
    if "masks_bev" in pairs[0][0]:
        differences = [(mine["masks_bev"] - theirs["masks_bev"]).abs() for mine, theirs in pairs]
        result["mask difference"] = max(one.max().item() for one in differences)
    return result


def _share_found(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    if len(mine["pred_boxes"]) != len(theirs["pred_boxes"]):
        return 0.0
    if not len(mine["pred_boxes"]):
        return 1.0
    offsets = mine["pred_boxes"][:, None, :3] - theirs["pred_boxes"][:, :3]
    distance = torch.linalg.vector_norm(offsets, dim=-1)
    same = mine["pred_labels"][:, None] == theirs["pred_labels"]
    return (same & (distance < SAME_BOX)).any(1).float().mean().item()


def _score_difference(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    if len(mine["pred_scores"]) != len(theirs["pred_scores"]):
        return 1.0
    sorted_ones = [one["pred_scores"].sort().values for one in (mine, theirs)]
    return max((sorted_ones[0] - sorted_ones[1]).abs().tolist(), default=0.0)


def check(result: dict[str, float]) -> None:
    """Refuse to compare networks that predict different things.

    Raises:
        MeasurementError: naming what differs.
    """
    limits = {"score difference": SAME_SCORE, "mask difference": SAME_MASK}
    far = [name for name, limit in limits.items() if result.get(name, 0.0) > limit]
    if far or result.get("boxes found", 1.0) < FOUND:
        raise MeasurementError(f"the predictions differ from OpenPCDet's: {result}")


def main() -> None:
    parser = isolated_parser(__doc__, configured=True)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    config, device = load_config(args.cfg_file, args.overrides), torch.device(args.device)
    result = measure(config, args.variant, args.batch, device, args.repeats, args.folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
