"""All sections of a configuration."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict

from nsmae_plugin.config.dense_heads import Suppression
from nsmae_plugin.config.old_sections import OldBEVHead, OldPerspectiveHead
from nsmae_plugin.config.optimization import Hook, Optimization
from nsmae_plugin.config.section import Section
from nsmae_plugin.config.sections import InSlot
from nsmae_plugin.config.values import ABSENT, Names, Ratio


class PostProcessing(Section):
    """What both hosts read, and what OpenPCDet's detectors read; the latter's other keys pass."""

    model_config = ConfigDict(extra="allow")

    RECALL_THRESH_LIST: list[Ratio] = ABSENT
    EVAL_METRIC: str | None = None
    SCORE_THRESH: float = ABSENT
    OUTPUT_RAW_SCORE: bool = ABSENT
    NMS_CONFIG: Suppression = ABSENT


class Model(Section):
    """A detector and its modules, one section per slot; a detector's ``Config`` may say more."""

    NAME: str
    MASK_TOKEN: Annotated[Any, InSlot("mask_token")] | None = None
    VFE: Annotated[Any, InSlot("vfe")] | None = None
    BACKBONE_3D: Annotated[Any, InSlot("backbone_3d")] | None = None
    MAP_TO_BEV: Annotated[Any, InSlot("map_to_bev")] | None = None
    PFE: Annotated[Any, InSlot("pfe")] | None = None
    IMAGE_BACKBONE: Annotated[Any, InSlot("image_backbone")] | None = None
    NECK: Annotated[Any, InSlot("neck")] | None = None
    VTRANSFORM: Annotated[Any, InSlot("vtransform")] | None = None
    FUSER: Annotated[Any, InSlot("fuser")] | None = None
    BACKBONE_2D: Annotated[Any, InSlot("backbone_2d")] | None = None
    DENSE_HEAD: Annotated[Any, InSlot("dense_head")] | None = None
    POINT_HEAD: Annotated[Any, InSlot("point_head")] | None = None
    ROI_HEAD: Annotated[Any, InSlot("roi_head")] | None = None
    MAP_HEAD: Annotated[Any, InSlot("map_head")] | None = None
    RENDER_HEADS: list[Annotated[Any, InSlot("render_head")]] | None = None
    PERSPECTIVE_HEAD: OldPerspectiveHead | None = None
    BEV_HEAD: OldBEVHead | None = None
    LOSS_CONFIG: Any = None
    POST_PROCESSING: PostProcessing | None = None


class Configuration(Section):
    """One YAML file with its bases."""

    CLASS_NAMES: Names
    DATA_CONFIG: Annotated[Any, InSlot("dataset", key="DATASET")]
    MODEL: Annotated[Any, InSlot("detector", otherwise=Model)]
    OPTIMIZATION: Optimization
    HOOK: Hook | None = None
