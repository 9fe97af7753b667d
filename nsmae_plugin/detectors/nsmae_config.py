"""The configuration of the pre-training detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from nsmae_plugin.config.configuration import Model
from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import NonNegative
from nsmae_plugin.models.module_config import ImageMaskToken

STOP = "_STOP_EPOCH"


def stop_key(term: str) -> str:
    """Key of LOSS_CONFIG for the epoch from which a term has no weight."""
    return f"{term.upper()}{STOP}"


class LossConfig(Section):
    """MODEL.LOSS_CONFIG: ``<term>_weight`` and ``<TERM>_STOP_EPOCH`` of the terms of all heads."""

    LOSS_WEIGHTS: dict[str, NonNegative]
    DEPTH_STOP_EPOCH: NonNegative | None = None
    BEV_DEPTH_STOP_EPOCH: NonNegative | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, content: Any) -> Any:
        if isinstance(content, Mapping):  # stops of terms that only the heads know
            content = {
                key: value
                for key, value in content.items()
                if key in cls.model_fields or not str(key).endswith(STOP)
            }
        return super()._check_keys(content)  # type: ignore[operator]


class Config(Model):
    """MODEL of the pre-training detector."""

    MASK_TOKEN: ImageMaskToken | None = None
    LOSS_CONFIG: LossConfig
