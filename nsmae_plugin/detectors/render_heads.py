"""The render heads of the pre-training detector: how they are built, and must fit together."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from nsmae_plugin import host
from nsmae_plugin.config.derived import finest_image_map
from nsmae_plugin.config.section import shown, suggest
from nsmae_plugin.detectors import term_schedule
from nsmae_plugin.detectors.branches import CAMERA_SECTIONS, bev_grid, find_branches
from nsmae_plugin.detectors.nsmae_config import STOP, stop_key
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.render_head import IMAGE_MAP, Encoders, RenderHead

logger = logging.getLogger(__name__)

# Terms of the paper, which may have a weight without their head: recipes of one sensor keep all.
TERMS = ("rgb", "depth", "bev_depth")


def check_branches(model_cfg: Any) -> None:
    """Check that MODEL has a camera branch, a LiDAR branch or both, and something to render.

    The camera branch may end before its view transform where a head reads image features.

    Raises:
        ConfigError: half a branch, no branch or no head.
    """
    if not model_cfg.get("RENDER_HEADS"):
        raise ConfigError("NSMAE needs MODEL.RENDER_HEADS, the views that it learns to render")
    heads = [host.lookup("render_head", entry.NAME) for entry in model_cfg.RENDER_HEADS]
    from_images = any(IMAGE_MAP in getattr(head, "reads", ()) for head in heads)
    sections = [key for key in CAMERA_SECTIONS if not (from_images and key == "VTRANSFORM")]
    find_branches(model_cfg, ("MASK_TOKEN", *sections))


def build_heads(detector: Any) -> list[RenderHead]:
    """Build the heads of MODEL.RENDER_HEADS, and add them to a detector behind its encoders.

    Raises:
        ConfigError: see :func:`check_heads`; or from a head.
    """
    model_cfg, dataset, channels = detector.model_cfg, detector.dataset, {}
    if detector.vtransform is not None:
        channels["spatial_features_img"] = model_cfg.VTRANSFORM.OUT_CHANNEL
    if detector.map_to_bev_module is not None:
        channels["spatial_features"] = detector.map_to_bev_module.num_bev_features
    extent = tuple(float(value) for value in dataset.point_cloud_range)
    grid, image_map = bev_grid(model_cfg, dataset), finest_image_map(model_cfg)
    encoders = Encoders(detector.vtransform, channels, grid, extent, image_map)
    entries = model_cfg.RENDER_HEADS
    heads = [host.lookup("render_head", entry.NAME)(entry, encoders) for entry in entries]
    check_heads(heads, model_cfg, channels)
    for head in heads:
        detector.add_module(head.slot, head)
        detector.module_topology.append(head.slot)
        detector.module_list.append(head)
    return heads


def freeze_unread(detector: Any) -> None:
    """Freeze the modules whose features no head reads, and warn of them."""
    idle = term_schedule.idle_modules(detector, detector.render_heads)
    for module in idle:
        module.requires_grad_(False)
    slots = [
        name for name, one in detector.named_children() if one in idle and list(one.parameters())
    ]
    if slots:
        log = getattr(detector.dataset, "logger", None) or logger
        names = [head.NAME for head in detector.model_cfg.RENDER_HEADS]
        log.warning("not trained, as MODEL.RENDER_HEADS %s reads nothing of it: %s", names, slots)


def check_heads(heads: Sequence[RenderHead], model_cfg: Any, features: Iterable[str]) -> None:
    """Check that the heads fit together, and that each parameter gets a gradient from one of them.

    Heads that read nothing but image features may leave the rest of the network untrained.

    Args:
        features: keys of the branches' BEV features.

    Raises:
        ConfigError: two heads of one slot or term, features that no head reads, a term without
            weight, a weight or stop without its term, a stop that is no number, or a stop of all
            terms.
    """
    names, loss_config = [head.NAME for head in model_cfg.RENDER_HEADS], model_cfg.LOSS_CONFIG
    terms = [term for head in heads for term in head.terms]
    for what, values in {"slot": [head.slot for head in heads], "loss term": terms}.items():
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise ConfigError(f"two of MODEL.RENDER_HEADS {names} have the {what} {value!r}")
    found = term_schedule.reads(heads)
    for key in features:
        if key not in found and found != {IMAGE_MAP}:
            raise ConfigError(
                f"none of MODEL.RENDER_HEADS {names} reads {key}, so that its module would learn "
                "nothing: add {NAME: BEVRenderHead}"
            )
    for term in terms:
        if f"{term}_weight" not in loss_config.LOSS_WEIGHTS:
            raise ConfigError(f"missing key MODEL.LOSS_CONFIG.LOSS_WEIGHTS.{term}_weight: a number")
    for key in sorted(loss_config.LOSS_WEIGHTS.keys() - {f"{t}_weight" for t in (*TERMS, *terms)}):
        raise ConfigError(
            f"MODEL.LOSS_CONFIG.LOSS_WEIGHTS.{key} weighs a term that none of MODEL.RENDER_HEADS "
            f"{names} has{suggest(key, [f'{term}_weight' for term in terms])}"
        )
    _check_stops(loss_config, terms, names)


def _check_stops(loss_config: Any, terms: Sequence[str], names: Sequence[str]) -> None:
    """Check that stops name terms, and that one term never stops."""
    keys = {stop_key(term) for term in terms}
    stops = {key for key, end in loss_config.items() if key.endswith(STOP) and end is not None}
    for key in sorted(stops - keys):
        raise ConfigError(
            f"MODEL.LOSS_CONFIG.{key} ends a term that none of MODEL.RENDER_HEADS {names} has; set "
            "it to null"
        )
    for key in sorted(stops):
        end = loss_config[key]
        if type(end) not in (int, float) or not 0 <= end < math.inf:
            raise ConfigError(
                f"MODEL.LOSS_CONFIG.{key} must be a number of at least 0 or null, not {shown(end)}"
            )
    if stops == keys:
        raise ConfigError(
            f"nothing is left to learn after MODEL.LOSS_CONFIG.{', '.join(sorted(stops))}: set one "
            "of them to null"
        )
