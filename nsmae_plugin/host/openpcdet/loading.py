"""Import of OpenPCDet, with substitutes for missing modules."""

import importlib
import logging
import sys
from pathlib import Path

from nsmae_plugin.errors import INSTALL_SPCONV, HostError
from nsmae_plugin.host.build import HostDescription
from nsmae_plugin.host.openpcdet import (
    compatibility,
    cpu,
    discovery,
    placeholders,
    processes,
    substitutes,
)
from nsmae_plugin.ops.compiled import uncompiled

logger = logging.getLogger(__name__)

USAGE = """usage: python -m nsmae_plugin.host.openpcdet SCRIPT [ARGUMENTS ...]

Run a script of OpenPCDet, such as tools/train.py, without its CUDA build. SCRIPT is a path from the
root of the checkout that OPENPCDET_ROOT names, or from here."""

_INSTALL = {
    "spconv": INSTALL_SPCONV,
    "cumm": "cumm, or the cumm-cuXXX wheel that belongs to your spconv",
    "yaml": "pyyaml",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
}


def load() -> HostDescription:
    """Import ``pcdet`` with its models and datasets; returns what was found and what replaced.

    Raises:
        HostError: OpenPCDet was found but cannot be imported; the message says what to do.
    """
    compatibility.restore_numpy_aliases()
    compatibility.allow_numpy_scalars_in_checkpoints()
    substitutes.install_finder()
    try:
        if cpu.apply():
            logger.info("OpenPCDet host: no CUDA device, running on the CPU")
        with substitutes.third_party_placeholders() as replaced:
            stand_ins = {**replaced, **_import_all()}
    except HostError:
        raise
    except Exception as error:  # any exception of a broken installation becomes one message
        raise HostError(_explain(error)) from error
    _repair()
    return _describe(stand_ins)


def load_for_command() -> HostDescription:
    """Import OpenPCDet for ``python -m nsmae_plugin.host.openpcdet``, or end with one line.

    Python imports the package before its ``__main__``; until then ``sys.argv`` begins with -m.
    ``--help`` does not need OpenPCDet.
    """
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(USAGE)
        sys.exit(0)
    try:
        return load()
    except HostError as error:
        sys.exit(f"error: {error}")


def _describe(stand_ins: dict[str, str]) -> HostDescription:
    """Describe the ``pcdet`` that has been imported."""
    package = sys.modules["pcdet"]
    return HostDescription(
        version=str(package.__dict__["__version__"]),
        location=str(Path(str(package.__file__)).parent),
        extensions={name.rpartition(".")[2]: _served(name) for name in substitutes.EXTENSIONS},
        stand_ins=stand_ins,
    )


def _served(extension: str) -> str:
    parent, _, name = extension.rpartition(".")
    if not substitutes.is_substituted(extension):
        return "compiled"
    served = "refuses to run" if name in uncompiled.OPERATORS else "torch-native"
    folder = Path(sys.modules[parent].__path__[0])  # some have no __init__.py and so no __file__
    builds = sorted(path.name for path in folder.glob(f"{name}*") if path.suffix in (".so", ".pyd"))
    return f"{served} ({', '.join(builds)} is for another Python)" if builds else served


def _repair() -> None:
    """Adapt OpenPCDet to current libraries, and its scripts to the plugin."""
    common, communication = (
        sys.modules[f"pcdet.utils.{name}"] for name in ("common_utils", "commu_utils")
    )
    processes.install(common, communication, sys.modules["pcdet.datasets"])
    models = sys.modules["pcdet.models"]
    compatibility.load_booleans_as_booleans(models)
    compatibility.build_with_care(models)
    augmentor, detector, dataset, swin, assigner = (
        _class(f"pcdet.{module}", name)
        for module, name in (
            ("datasets.augmentor.data_augmentor", "DataAugmentor"),
            ("models.detectors.detector3d_template", "Detector3DTemplate"),
            ("datasets.dataset", "DatasetTemplate"),
            ("models.backbones_image.swin", "SwinTransformer"),
            ("models.dense_heads.target_assigner.hungarian_assigner", "HungarianAssigner3D"),
        )
    )
    compatibility.disable_augmentations_alone(augmentor)
    compatibility.tell_why_nothing_is_resumed(detector)
    compatibility.evaluate_whole_networks(detector)
    compatibility.collate_ragged_image_infos(dataset)
    compatibility.load_image_weights(swin)
    compatibility.read_databases_without_trust(
        sys.modules["pcdet.datasets.augmentor.database_sampler"]
    )
    compatibility.assign_where_there_is_no_box(assigner)


def _class(module: str, name: str) -> type:
    return vars(sys.modules[module])[name]


def _import_all() -> dict[str, str]:
    """Import everything that the contract reaches; returns the datasets that were replaced."""
    discovery.import_package()
    for name in substitutes.EXTENSIONS:
        importlib.import_module(name)
    native = filter(substitutes.is_substituted, substitutes.EXTENSIONS)
    names = ", ".join(name.rpartition(".")[2] for name in native)
    logger.info("OpenPCDet host: not compiled, so substituted: %s", names or "nothing")
    obstacle = placeholders.argo2_obstacle()
    if obstacle:
        stand_in = placeholders.argo2_stand_in(obstacle)
        sys.modules.setdefault(stand_in.__name__, stand_in)
    importlib.import_module("pcdet.models")
    importlib.import_module("pcdet.datasets")
    importlib.import_module("pcdet.utils.commu_utils")
    return {"Argo2Dataset": obstacle} if obstacle else {}


def _explain(error: Exception) -> str:
    """One message that names the obstacle and its remedy."""
    root = discovery.checkout_root()
    where = f"OpenPCDet at {root}" if root else "the installed pcdet"
    message = f"{where} was found but cannot be imported: {type(error).__name__}: {error}."
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package == "pcdet":
            return f"{message} The copy is incomplete: fetch OpenPCDet again"
        return f"{message} Install it: pip install {_INSTALL.get(package, package)}"
    extension = _compiled_extension(error)
    if extension:
        return (
            f"{message} Its compiled extension {extension} was built for another torch, CUDA or "
            "Python; rebuild it (python setup.py develop), or delete the .so file to use the "
            "torch-native substitute"
        )
    return f"{message} Repair it, or use NSMAE_HOST=builtin; `nsmae doctor` says more"


def _compiled_extension(error: Exception) -> str | None:
    text = f"{getattr(error, 'path', '')} {getattr(error, 'name', '')} {error}"
    short_names = (name.rpartition(".")[2] for name in substitutes.EXTENSIONS)
    return next((name for name in short_names if name in text), None)
