"""Modules that an uncompiled or partly installed OpenPCDet lacks, served on demand.

Two kinds, because they differ in how long they may live:

* OpenPCDet's own missing modules (compiled extensions, the generated ``pcdet.version``) are served
  for good, by a finder *appended* to ``sys.meta_path``: a real build always wins.
* Third-party packages that OpenPCDet imports unconditionally, but that our path does not need,
  are served only while OpenPCDet is being imported. Afterwards they vanish from ``sys.modules``,
  so that other libraries do not mistake them for the real thing; OpenPCDet's modules keep the
  reference that they imported, and using it raises a clear error.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from nsmae_plugin.host.openpcdet import placeholders
from nsmae_plugin.ops.compiled import uncompiled

# OpenPCDet's seven compiled extensions
EXTENSIONS = (
    "pcdet.ops.iou3d_nms.iou3d_nms_cuda",
    "pcdet.ops.roiaware_pool3d.roiaware_pool3d_cuda",
    "pcdet.ops.bev_pool.bev_pool_ext",
    "pcdet.ops.ingroup_inds.ingroup_inds_cuda",
    "pcdet.ops.roipoint_pool3d.roipoint_pool3d_cuda",
    "pcdet.ops.pointnet2.pointnet2_stack.pointnet2_stack_cuda",
    "pcdet.ops.pointnet2.pointnet2_batch.pointnet2_batch_cuda",
)

# The version of the reference commit 8caccce; setup.py would write it into pcdet/version.py.
UNCOMPILED_VERSION = "0.6.0"


class _Loader(importlib.abc.Loader):
    """Loads one substitute; ``isinstance(module.__spec__.loader, ...)`` recognises it later."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "pcdet.version":
            module.__dict__["__version__"] = UNCOMPILED_VERSION
            return
        extension = module.__name__.rpartition(".")[2]
        if extension in uncompiled.OPERATORS:
            module.__dict__.update(uncompiled.refusing_functions(extension))
            return
        source = importlib.import_module(f"nsmae_plugin.ops.compiled.{extension}")
        module.__doc__ = source.__doc__
        module.__dict__.update({name: getattr(source, name) for name in source.__all__})


class SubstituteFinder(importlib.abc.MetaPathFinder):
    """Serves OpenPCDet's own modules that no other finder could find."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in EXTENSIONS and fullname != "pcdet.version":
            return None
        return importlib.util.spec_from_loader(fullname, _Loader())


def install_finder() -> None:
    """Append the finder to ``sys.meta_path``; idempotent."""
    if not any(isinstance(finder, SubstituteFinder) for finder in sys.meta_path):
        sys.meta_path.append(SubstituteFinder())


def is_substituted(extension: str) -> bool:
    """True if the imported module ``extension`` is the substitute, not a build."""
    spec = sys.modules[extension].__spec__
    return spec is not None and isinstance(spec.loader, _Loader)


@contextmanager
def third_party_placeholders() -> Iterator[dict[str, str]]:
    """Serve the third-party packages that are absent or broken, inside the ``with`` block only.

    Yields why each package was replaced, by its name.
    """
    replaced = placeholders.install()
    try:
        yield replaced
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in replaced]:
            del sys.modules[name]
