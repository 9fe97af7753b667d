"""Which keys and values a YAML configuration may hold.

A section is a dict ``key -> kind`` of :mod:`nsmae_plugin.config.schema_kinds`; keys wrapped by
``need`` must be there. Modules are looked up by ``NAME`` in the tables below; a ``NAME`` that no
table knows belongs to OpenPCDet.
"""

from __future__ import annotations

from typing import Any

from nsmae_plugin.config.schema_kinds import NUMBER, OPTIONAL_NUMBER, need

MODULES: dict[str, dict[str, dict[str, Any]]] = {
    "MASK_TOKEN": {"ImageMaskToken": {"PATCH_SIZE": need(int)}},
    "PERSPECTIVE_HEAD": {"PerspectiveRenderHead": {"IN_CHANNELS": need(int)}},
    "BEV_HEAD": {"BEVRenderHead": {"NUM_BINS": need(int)}},
}

PRETRAIN_LOSS = {
    "LOSS_WEIGHTS": need(
        {"rgb_weight": need(NUMBER), "depth_weight": need(NUMBER), "bev_depth_weight": need(NUMBER)}
    ),
    "DEPTH_STOP_EPOCH": OPTIONAL_NUMBER,
    "BEV_DEPTH_STOP_EPOCH": OPTIONAL_NUMBER,
}
