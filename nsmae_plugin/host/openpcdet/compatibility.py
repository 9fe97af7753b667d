"""Patches of NumPy, torch and OpenPCDet that the reference commit needs today.

OpenPCDet's files stay untouched. Each function is idempotent and says what breaks without it.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch

from nsmae_plugin.errors import CheckpointError, ConfigError, DataError
from nsmae_plugin.host import build, hooks
from nsmae_plugin.host.openpcdet import configuration
from nsmae_plugin.host.openpcdet.patching import replace
from nsmae_plugin.host.swin_checkpoint import load_image_checkpoint
from nsmae_plugin.runtime import torch_files
from nsmae_plugin.runtime.reading import open_regular
from nsmae_plugin.runtime.safe_pickle import load_plain

# DATASET of a TransFusionHead -> numbers, from 0, of the classes in which neighbours may both be
# objects
SMALL_CLASSES = {"nuScenes": (8, 9), "Waymo": (1, 2)}
SHOWN = 3  # weights that an error message spells out

MOST_OBJECT_BYTES = 1 << 28

# Removed in NumPy 1.24; base_bev_backbone.py and database_sampler.py among others use them.
NUMPY_ALIASES = {"int": int, "float": float, "bool": bool, "object": object, "str": str}
Original = Callable[..., Any]


def restore_numpy_aliases() -> None:
    """Restore ``np.int`` and similar aliases of Python types."""
    for name, value in NUMPY_ALIASES.items():
        if name not in vars(np):
            setattr(np, name, value)


def allow_numpy_scalars_in_checkpoints() -> None:
    """Let ``torch.load`` accept the NumPy scalars in OpenPCDet's optimizer states.

    OpenPCDet calls ``torch.load`` without ``weights_only``. Since torch 2.6 that refuses the
    learning rates, NumPy scalars, of a saved optimizer, and its training script then starts over
    without a word. Only these types are added; arbitrary pickles stay refused.
    """
    scalar = np.float64(0).__reduce__()[0]  # multiarray.scalar, whose module NumPy 2 renamed
    codes = ("float16", "float32", "float64", "int32", "int64", "bool")
    dtypes = {type(np.dtype(code)) for code in codes}
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    allowed: list[Any] = [np.dtype, *dtypes, *((scalar, name) for name in names)]
    torch.serialization.add_safe_globals(allowed)


def collate_ragged_image_infos(dataset_template: type) -> None:
    """Stack ``img_process_infos`` as objects in ``DatasetTemplate.collate_batch``.

    Each entry is ``[resize, crop (4,), flip, rotate]``. NumPy before 1.24 turned such ragged lists
    into an object array (B, N, 4); since then ``np.stack`` raises, and collation with it.
    """

    def collate_batch(
        original: Original, batch_list: list[dict[str, Any]], _unused: bool = False
    ) -> dict[str, Any]:
        key = "img_process_infos"
        if not all(key in sample for sample in batch_list):
            return original(batch_list, _unused)
        rest = [{k: v for k, v in sample.items() if k != key} for sample in batch_list]
        batch = original(rest, _unused)
        batch[key] = _object_array([sample[key] for sample in batch_list])
        return batch

    replace(dataset_template, "collate_batch", collate_batch)


def assign_where_there_is_no_box(assigner: type) -> None:
    """Let ``HungarianAssigner3D.assign`` accept samples without boxes.

    It returns a variable there that it never set, and training a TransFusionHead on a batch with
    such a sample ends in an UnboundLocalError.
    """

    def assign(
        original: Original, self: Any, bboxes: torch.Tensor, gt_bboxes: torch.Tensor, *rest: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(gt_bboxes):
            return original(self, bboxes, gt_bboxes, *rest)
        return bboxes.new_zeros(len(bboxes), dtype=torch.long), bboxes.new_zeros(len(bboxes))

    replace(assigner, "assign", assign)


def load_image_weights(backbone: type) -> None:
    """Let ``SwinTransformer`` read INIT_CFG.checkpoint as the built-in host does.

    With CONVERT_WEIGHTS OpenPCDet expects the names of the original repository, without it names
    that begin with ``backbone.``. Where a file has others, as detectors trained on nuImages have,
    the backbone or its first layer stays random without a word.
    """

    def init_weights(original: Original, self: Any) -> None:
        if self.init_cfg is None:
            original(self)
        else:
            load_image_checkpoint(self, self.init_cfg.get("checkpoint"), self.convert_weights)

    replace(backbone, "init_weights", init_weights)


def load_booleans_as_booleans(models: ModuleType) -> None:
    """Let ``pcdet.models.load_data_to_gpu`` make boolean tensors of boolean arrays.

    It makes floats of all arrays, and ``~mask`` and ``torch.where(mask, ...)`` refuse floats: those
    of the masks and the map labels of the plugin's datasets.
    """

    def load_data_to_gpu(original: Callable[..., None], batch_dict: dict[str, Any]) -> None:
        arrays = {k: v for k, v in batch_dict.items() if isinstance(v, np.ndarray)}
        masks = {k: v for k, v in arrays.items() if v.dtype == bool}
        # Tensors are passed over.
        batch_dict.update({k: torch.from_numpy(v).cuda() for k, v in masks.items()})
        original(batch_dict)

    replace(models, "load_data_to_gpu", load_data_to_gpu)


def read_databases_without_trust(sampler_module: ModuleType) -> None:
    """Let ``gt_sampling`` read the list of a database as data, and its objects from regular files.

    OpenPCDet unpickles the list, which runs whatever code it holds. What such lists hold, NumPy
    arrays and plain containers, is read all the same. An object that is a named pipe would be
    waited for, a device read without an end, and a truncated one end in an error of ``reshape``.
    """
    remedy, owner = "create the database again", " of the ground-truth database"

    def load(file: BinaryIO) -> Any:
        return load_plain(Path(file.name), "the list of the ground-truth database", remedy)

    def fromfile(path: str, dtype: Any) -> np.ndarray:
        with open_regular(path, "the object", remedy, MOST_OBJECT_BYTES, owner) as file:
            return np.fromfile(file, dtype)

    def add(original: Original, self: Any, data: Any, boxes: Any, entries: Any, *rest: Any) -> Any:
        features = self.sampler_cfg.NUM_POINT_FEATURES
        for entry in () if self.use_shared_memory else entries:
            path, count = self.root_path / entry["path"], entry["num_points_in_gt"]
            with open_regular(path, "the object", remedy, MOST_OBJECT_BYTES, owner) as file:
                size = os.fstat(file.fileno()).st_size
            if size not in (4 * count * features, 8 * count * features):  # float32 or float64
                raise DataError(
                    f"{path} has {size} bytes, not those of {count} points with "
                    f"NUM_POINT_FEATURES {features}; check the setting or {remedy}"
                )
        return original(self, data, boxes, entries, *rest)

    replace(sampler_module.DataBaseSampler, "add_sampled_boxes_to_scene", add)
    numpy = ModuleType("numpy")
    numpy.__dict__.update({**vars(np), "fromfile": fromfile})
    sampler_module.np = numpy  # type: ignore[attr-defined]
    sampler_module.pickle = SimpleNamespace(load=load)  # type: ignore[attr-defined]


def build_with_care(models: ModuleType) -> None:
    """Let ``pcdet.models.build_network`` complete and check the configuration as ours does.

    OpenPCDet's BevFusion fuses the maps of camera and LiDAR whatever range each has, and its
    TransFusionHead ends in an IndexError with fewer classes than nuScenes has.
    """

    def build_network(
        original: Original, model_cfg: Any, num_class: int, dataset: Any
    ) -> torch.nn.Module:
        def builder(model_cfg: Any, **arguments: Any) -> torch.nn.Module:
            configuration.adapt_modules(model_cfg)
            _check_small_classes(model_cfg, num_class)
            return original(model_cfg=model_cfg, **arguments)

        return build.build_network(builder, model_cfg, num_class, dataset)

    replace(models, "build_network", build_network)


def disable_augmentations_alone(augmentor: type) -> None:
    """Let ``DataAugmentor.disable_augmentation`` leave other steps unchanged.

    It builds all steps anew, for the HOOK of the training script: those that the configuration had
    disabled before come back (``imgaug`` in a network without cameras, which ends in a KeyError),
    and ``gt_sampling`` forgets which objects LABEL_FRACTION left it.
    """

    def disable_augmentation(_: Callable[..., None], self: Any, config: Any) -> None:
        self.data_augmentor_queue = hooks.without(
            self.data_augmentor_queue, list(config.DISABLE_AUG_LIST)
        )

    replace(augmentor, "disable_augmentation", disable_augmentation)


def tell_why_nothing_is_resumed(detector: type) -> None:
    """Let ``load_params_with_optimizer`` log the problem of a checkpoint.

    The training script passes over checkpoints that it cannot load, and without another one starts
    from the beginning, all without a word.
    """

    def load(original: Original, self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, filename, *args, **kwargs)
        except Exception as error:
            logger = kwargs.get("logger") or logging.getLogger(__name__)
            logger.error("cannot resume from %s: %s: %s", filename, type(error).__name__, error)
            _refuse_damaged(filename)
            raise

    replace(detector, "load_params_with_optimizer", load)


def evaluate_whole_networks(detector: type) -> None:
    """Let an evaluation end where there is no checkpoint, or one that leaves weights as they were.

    Without a name OpenPCDet's script ends in a TypeError, and with a damaged file in a traceback.
    From a checkpoint of another network it takes what fits, logs the rest and scores the random
    weights; for detectors of the plugin that is an error.
    """

    def load(original: Original, self: Any, filename: str | None, *args: Any, **kwargs: Any) -> Any:
        if filename is None:
            raise CheckpointError("there is no checkpoint to evaluate: give --ckpt or --eval_all")
        try:
            return original(self, filename, *args, **kwargs)
        except CheckpointError:
            raise
        except Exception:
            _refuse_damaged(filename)
            raise

    def load_state(original: Original, self: Any, state: Any, *, strict: bool = True) -> Any:
        own, loaded = original(self, state, strict=strict)
        lacking = [name for name in own if name not in loaded]
        is_ours = type(self).__module__.startswith("nsmae_plugin.")
        if lacking and is_ours and not self.dataset.training:
            raise CheckpointError(
                f"the checkpoint belongs to another network than {type(self).__name__}: "
                f"{len(lacking)} of {len(own)} weights are missing or have another shape, first: "
                f"{', '.join(lacking[:SHOWN])}; evaluate it with its own configuration"
            )
        return own, loaded

    replace(detector, "load_params_from_file", load)
    replace(detector, "_load_state_dict", load_state)


def _check_small_classes(model_cfg: Any, classes: int) -> None:
    """Check that a TransFusionHead finds its small classes, which it takes by their number."""
    head: Any = model_cfg.get("DENSE_HEAD") or {}
    if head.get("NAME") != "TransFusionHead":
        return
    data = head.TARGET_ASSIGNER_CONFIG.get("DATASET", "nuScenes")
    if classes <= max(SMALL_CLASSES.get(data, (-1,))):
        raise ConfigError(
            f"OpenPCDet's TransFusionHead takes classes number {SMALL_CLASSES[data]} of {data} for "
            f"small objects, and CLASS_NAMES has {classes}: set MODEL.DENSE_HEAD."
            "TARGET_ASSIGNER_CONFIG.DATASET to another word, such as other"
        )


def _refuse_damaged(filename: str) -> None:
    """Explain why OpenPCDet could not load a file, if the file is the reason.

    Raises:
        CheckpointError: it cannot be read, or holds no weights.
    """
    content = torch_files.load(Path(filename))
    if not isinstance(content, dict) or "model_state" not in content:
        raise CheckpointError(f"{filename} is not a checkpoint of OpenPCDet: it has no model_state")


def _object_array(infos: list[list[list[Any]]]) -> np.ndarray:
    """(B, N, fields) array whose elements are the Python objects."""
    array = np.empty((len(infos), len(infos[0]), len(infos[0][0])), dtype=object)
    for sample, cameras in enumerate(infos):
        for camera, fields in enumerate(cameras):
            for position, field in enumerate(fields):
                array[sample, camera, position] = field
    return array
