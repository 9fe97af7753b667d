"""The section of each entry of a registry, found by slot and NAME.

Sections of a host's and of the plugin's own classes are named here by import path, in modules that
do without torch: a configuration is checked before anything is registered. Another class brings
its section as its attribute ``Config`` when it is registered.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from nsmae_plugin.config.section import Section, not_a_section
from nsmae_plugin.config.values import Words

_STEPS = "nsmae_plugin.config.data_steps"
_DATA = "nsmae_plugin.data.data_config"
_MODULES = "nsmae_plugin.config.modules"
_HEADS = "nsmae_plugin.config.dense_heads"
_OWN = "nsmae_plugin.models.module_config"

#: slot -> NAME -> ``module:Class``
PATHS: dict[str, dict[str, str]] = {
    "detector": {"NSMAE": "nsmae_plugin.detectors.nsmae_config:Config"},
    "dataset": {
        "MultiModalNuScenesDataset": f"{_DATA}:NuScenesData",
        "NuScenesDataset": f"{_DATA}:OpenPCDetNuScenes",
    },
    "vfe": {"MeanVFE": f"{_MODULES}:Module"},
    "backbone_3d": {"VoxelResBackBone8x": f"{_MODULES}:VoxelResBackBone8x"},
    "map_to_bev": {"HeightCompression": f"{_MODULES}:HeightCompression"},
    "image_backbone": {"SwinTransformer": f"{_MODULES}:SwinTransformer"},
    "neck": {"GeneralizedLSSFPN": f"{_MODULES}:GeneralizedLSSFPN"},
    "vtransform": {
        "FactorizedLSSTransform": f"{_OWN}:FactorizedLSSTransform",
        "FactorizedDepthLSSTransform": f"{_OWN}:FactorizedDepthLSSTransform",
        "DepthLSSTransform": f"{_MODULES}:LiftSplat",
    },
    "fuser": {"ConvFuser": f"{_MODULES}:ConvFuser"},
    "backbone_2d": {
        "BaseBEVBackbone": f"{_MODULES}:BaseBEVBackbone",
        "GeneralizedResNetLSSFPN": f"{_OWN}:GeneralizedResNetLSSFPN",
    },
    "dense_head": {
        "CenterHead": f"{_HEADS}:CenterHead",
        "TransFusionHead": f"{_HEADS}:TransFusionHead",
    },
    "map_head": {"BEVSegmentationHead": f"{_OWN}:BEVSegmentationHead"},
    "mask_token": {"ImageMaskToken": f"{_OWN}:ImageMaskToken"},
    "render_head": {
        "PerspectiveRenderHead": f"{_MODULES}:Module",
        "BEVRenderHead": f"{_OWN}:BEVRenderHead",
        "MaskedImageHead": f"{_MODULES}:Module",
    },
    "augmentor": {
        "gt_sampling": f"{_STEPS}:GroundTruthSampling",
        "random_world_flip": f"{_STEPS}:WorldFlip",
        "random_world_rotation": f"{_STEPS}:WorldRotation",
        "random_world_scaling": f"{_STEPS}:WorldScaling",
        "random_world_translation": f"{_STEPS}:WorldTranslation",
        "imgaug": f"{_STEPS}:ImageAugmentation",
    },
    "processor": {
        "mask_points_and_boxes_outside_range": f"{_STEPS}:RangeMask",
        "shuffle_points": f"{_STEPS}:Shuffle",
        "transform_points_to_voxels": f"{_STEPS}:Voxels",
        "transform_points_to_voxels_placeholder": f"{_STEPS}:VoxelGrid",
        "image_calibrate": f"{_STEPS}:Step",
        "image_normalize": f"{_STEPS}:ImageNormalization",
        "mask_image_patches": f"{_DATA}:PatchMask",
        "mask_voxels": f"{_DATA}:VoxelMask",
        "mask_depth_points": f"{_DATA}:DepthMask",
        "mask_depth_hints": f"{_DATA}:DepthMask",
    },
}

_declared: dict[tuple[str, str], type[Section]] = {}


def declare(slot: str, name: str, entry: Any) -> None:
    """Remember the section of a class or step that is registered, if it has one."""
    section = getattr(entry, "Config", None)
    if isinstance(section, type) and issubclass(section, Section):
        _declared[slot, name] = section


def find(slot: str, name: str) -> type[Section] | None:
    """The section of a registered NAME; None if its keys are not checked."""
    path = PATHS.get(slot, {}).get(name)
    if path is None:
        return _declared.get((slot, name))
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class InSlot:
    """Type of a section whose NAME says which keys it has: ``Annotated[Any, InSlot("neck")]``."""

    slot: str  # of the registries
    key: str = "NAME"  # that names the entry
    otherwise: type[Section] | None = None  # of a NAME without its own; None: it is not checked

    @property
    def words(self) -> Words:
        """Its name in messages."""
        return Words(f"a section with a {self.key}", f"sections with a {self.key}")

    def section(self, content: Any) -> type[Section] | None:
        """The section that describes ``content``, if one does."""
        name = content.get(self.key) if isinstance(content, Mapping) else None
        return (find(self.slot, name) if isinstance(name, str) else None) or self.otherwise

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check a value by its NAME."""
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get(self.key), str):
            raise not_a_section(value, self.words)
        section = self.section(value)
        return value if section is None else section.model_validate(value)


def below(section: type[Section], key: str, content: Any) -> type[Section] | None:
    """The section below a key, as far as it is known; :class:`Section` where keys are free.

    Args:
        content: of the section below, whose NAME may decide.
    """
    field = section.model_fields.get(key)
    if field is None:
        return None
    for part in (*field.metadata, *_parts(field.annotation)):
        if isinstance(part, InSlot):
            return part.section(content)
        if isinstance(part, type) and issubclass(part, Section):
            return part
        if get_origin(part) is dict:
            return Section
    return None


def _parts(kind: Any) -> Iterator[Any]:
    """A type and all that it consists of."""
    yield kind
    for inner in get_args(kind):
        yield from _parts(inner)
