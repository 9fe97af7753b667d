"""Table of reconstruction metrics: networks beside trivial predictors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nsmae_plugin.models.render_head import RenderHead

Metrics = Mapping[str, float]

_PREDICTORS = {"mean": "mean predictor", "median": "median predictor"}


def format_table(
    networks: Mapping[str, Metrics], heads: Iterable[RenderHead | type[RenderHead]]
) -> str:
    """Text table with one row per metric that any network has.

    Metrics that also exist for a trivial predictor come first.

    Args:
        networks: column title → metrics from ``evaluation.reconstruction.evaluate``, all on the
            same data, so that the predictors of the first network are those of all.
        heads: the render heads of the networks, which title the rows.
    """
    columns = dict(networks)
    reference = next(iter(networks.values()))
    for kind, title in _PREDICTORS.items():
        prefix = f"baseline_{kind}_"
        columns[title] = {
            name.removeprefix(prefix): value
            for name, value in reference.items()
            if name.startswith(prefix)
        }
    titles = {name: title for head in heads for name, title in head.rows.items()}
    names = [name for name in titles if any(name in metrics for metrics in networks.values())]
    predicted = {name for title in _PREDICTORS.values() for name in columns[title]}
    names.sort(key=lambda name: name not in predicted)
    rows = [
        [titles[name], *(_number(metrics.get(name)) for metrics in columns.values())]
        for name in names
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
