"""What OpenPCDet brought along and what was put in its place."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from nsmae_plugin.host.openpcdet import substitutes
from nsmae_plugin.ops.compiled import uncompiled


@dataclass
class Report:
    """The state of the imported OpenPCDet.

    Attributes:
        extensions: name of each compiled extension -> how it is served.
        stand_ins: third-party package (or dataset) that was replaced -> why.
    """

    version: str
    location: str
    extensions: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)


def describe(stand_ins: dict[str, str]) -> Report:
    """Report on the ``pcdet`` that has been imported."""
    package = sys.modules["pcdet"]
    return Report(
        version=str(package.__dict__["__version__"]),
        location=str(Path(str(package.__file__)).parent),
        extensions={name.rpartition(".")[2]: _served(name) for name in substitutes.EXTENSIONS},
        stand_ins=dict(stand_ins),
    )


def _served(extension: str) -> str:
    parent, _, name = extension.rpartition(".")
    if not substitutes.is_substituted(extension):
        return "compiled"
    served = "refuses to run" if name in uncompiled.OPERATORS else "torch-native"
    folder = Path(sys.modules[parent].__path__[0])  # some have no __init__.py and so no __file__
    builds = sorted(path.name for path in folder.glob(f"{name}*") if path.suffix in (".so", ".pyd"))
    return f"{served} ({', '.join(builds)} is for another Python)" if builds else served
