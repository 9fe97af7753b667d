"""Loss terms that stop at an epoch, and the modules that they leave untrained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nsmae_plugin.detectors.nsmae_config import stop_key
from nsmae_plugin.models.render_head import IMAGE_MAP, RenderHead

LIDAR_FEATURES = {"encoded_spconv_tensor", "spatial_features"}
LIFTED_FEATURES = {"depth_logits", "depth_context", "spatial_features_img"}
CAMERA_FEATURES = {IMAGE_MAP, *LIFTED_FEATURES}


def reads(heads: Sequence[RenderHead]) -> set[str]:
    """The features that a set of heads reads."""
    return {key for head in heads for key in head.reads}


def running_heads(detector: Any) -> list[RenderHead]:
    """The heads with a term that still trains; all heads in evaluation mode.

    What only the others train is frozen: its gradients are None, so that neither AdamW nor the
    decay of OpenPCDet's optimizer moves it.
    """
    heads, config = detector.render_heads, detector.model_cfg.LOSS_CONFIG
    steps = detector.steps_per_epoch
    if not detector.training or steps is None or not any_stops(heads, config):
        return heads
    done = int(detector.global_step)
    running = [
        head for head in heads if any(factor(term, config, done, steps) for term in head.terms)
    ]
    if len(running) < len(heads):
        for module in idle_modules(detector, running):
            module.requires_grad_(False)
    return running


def idle_modules(detector: Any, running: Sequence[RenderHead]) -> list[nn.Module]:
    """Modules whose features none of the running heads reads, and the other heads."""
    found = reads(running)
    idle = [head for head in detector.render_heads if head not in running]
    if not found & LIDAR_FEATURES:
        idle += [detector.vfe, detector.backbone_3d, detector.map_to_bev_module]
    if not found & CAMERA_FEATURES:
        idle += [detector.mask_token, detector.image_backbone, detector.neck]
    if not found & LIFTED_FEATURES:
        idle.append(detector.vtransform)
    elif "spatial_features_img" not in found:
        idle.append(detector.vtransform.downsample)
    return [module for module in idle if module is not None]


def any_stops(heads: Sequence[RenderHead], loss_config: Any) -> bool:
    """True if all terms of some head have a stop, so that the head stops, too."""
    return any(
        all(_stop_epoch(term, loss_config) is not None for term in head.terms) for head in heads
    )


def factor(
    term: str, loss_config: Any, step: int | Tensor, steps_per_epoch: int | None
) -> float | Tensor:
    """Factor on the weight of a term: 1, and 0 from epoch ``<TERM>_STOP_EPOCH`` on.

    Args:
        loss_config: MODEL.LOSS_CONFIG; without the key, or where it is null, the term never stops.
        step: optimizer steps done; a tensor gives a tensor, without waiting for its device.
        steps_per_epoch: None where nothing stops.
    """
    epoch = _stop_epoch(term, loss_config)
    if epoch is None or steps_per_epoch is None:
        return 1.0
    running = step < epoch * steps_per_epoch
    return running.float() if isinstance(running, Tensor) else float(running)


def _stop_epoch(term: str, loss_config: Any) -> float | None:
    return loss_config.get(stop_key(term))
