"""Prediction on made-up data: latency, memory and agreement with OpenPCDet's modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.depth_map import image_returns
from nsmae_plugin.models.lift_splat import STOCK_GRID_KEYS
from tools.benchmarks.inputs import made_up_batch
from tools.benchmarks.measure import MeasurementError, measure_calls
from tools.benchmarks.step import build_model

VARIANTS = ("factorised", "openpcdet")
# Of about two million frustum points some dozens lie on a face of a cell, to rounding, and fall on
# either side: their neighbourhood differs, the rest of the map is the same.
MEDIAN, AGREEING = 1e-4, 0.9  # the largest median difference, the smallest share that agrees
SAME = 0.01  # of the root mean square: values that are closer agree


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


@torch.no_grad()
def settle(model: nn.Module, batch: dict[str, Any]) -> None:
    """Give every BatchNorm the statistics of a batch.

    With those of an untrained network the signal fades from layer to layer: all cells then predict
    the same, and any two networks agree.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    model(dict(batch))
    for norm in norms:
        norm.eval()


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
    config: Any, variant: str, batch: int, device: torch.device, repeats: int, folder: str
) -> dict[str, list[float]]:
    """Seconds and MiB of a prediction.

    The first variant leaves its weights in the folder, the others load them; all leave results.
    """
    model = build_model(prepare(config), variant).to(device).eval()
    inputs = without_collisions(host.to_device(made_up_batch(config, batch, mode="test"), device))
    if variant == "factorised":
        settle(model, inputs)
    share_weights(model, Path(folder) / "weights.pth")
    results: dict[str, torch.Tensor] = {}
    head = model.dense_head if config.MODEL.get("DENSE_HEAD") else model.map_head
    head.register_forward_pre_hook(
        lambda _, arguments: results.update(features=arguments[0]["spatial_features_2d"])
    )

    def predict() -> None:
        with torch.inference_mode():
            predictions = model(dict(inputs))[0]
        if "masks_bev" in predictions[0]:
            results["masks"] = torch.stack([one["masks_bev"] for one in predictions])

    measured = measure_calls(predict, device, repeats)
    kept = {name: value.float().cpu() for name, value in results.items()}
    torch.save(kept, Path(folder) / f"{variant}.pth")
    return measured


def agreement(folder: Path, variants: Sequence[str]) -> dict[str, dict[str, float]]:
    """Agreement of the variants; empty for a single one.

    Boxes are not compared: which of the nearly equal best cells of an untrained heatmap become
    boxes is decided by rounding.

    Returns:
        For the ``features`` (B, C, Y, X) that the head reads, and for the ``masks`` (B, C, Y, X)
        of a map, in units of the root mean square: the ``median`` difference, and the ``share`` of
        the values that are closer than :data:`SAME`.
    """
    if len(variants) < 2:
        return {}
    ours, others = (torch.load(folder / f"{name}.pth") for name in variants)
    result = {}
    for name, theirs in others.items():
        difference = (ours[name] - theirs).abs() / theirs.square().mean().sqrt()
        share = (difference < SAME).float().mean()
        result[name] = {"median": difference.median().item(), "share": share.item()}
    return result


def check(result: dict[str, dict[str, float]]) -> None:
    """Refuse to compare networks that compute different things.

    Raises:
        MeasurementError: naming what differs.
    """
    for name, one in result.items():
        # Not >, which NaN passes.
        if not (one["median"] <= MEDIAN and one["share"] >= AGREEING):
            raise MeasurementError(f"the {name} differ from those of OpenPCDet's modules: {one}")
