"""Reconstruction metrics as a table: networks beside the trivial predictors."""

from __future__ import annotations

from collections.abc import Mapping

Metrics = Mapping[str, float]

_ROWS = {
    "rgb_psnr_masked": "colour PSNR, hidden patches (dB)",
    "rgb_psnr_visible": "colour PSNR, visible patches (dB)",
    "rgb_mse": "colour squared error, all cells",
    "depth_mae_hidden": "camera depth error, hidden LiDAR (m)",
    "depth_mae_visible": "camera depth error, visible LiDAR (m)",
    "depth_mae": "camera depth error, all LiDAR (m)",
    "bev_depth_mae_hidden": "BEV depth error, hidden voxels (m)",
    "bev_depth_mae_visible": "BEV depth error, visible voxels (m)",
    "bev_depth_mae": "BEV depth error, all voxels (m)",
    "opacity": "mean opacity, camera",
    "bev_opacity": "mean opacity, BEV",
}
_BASELINES = {"mean": "mean predictor", "median": "median predictor"}


def format_table(networks: Mapping[str, Metrics]) -> str:
    """Text table, a row per metric that any network has.

    Args:
        networks: column title -> metrics, as ``evaluation.reconstruction.evaluate`` gives them,
            all of the same data, so that the predictors of the first are those of all.
    """
    columns = dict(networks)
    reference = next(iter(networks.values()))
    for kind, title in _BASELINES.items():
        prefix = f"baseline_{kind}_"
        columns[title] = {
            name.removeprefix(prefix): value
            for name, value in reference.items()
            if name.startswith(prefix)
        }
    rows = [
        [title, *(_number(metrics.get(name)) for metrics in columns.values())]
        for name, title in _ROWS.items()
        if any(name in metrics for metrics in networks.values())
    ]
    return _align([["", *columns], *rows])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _align(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
