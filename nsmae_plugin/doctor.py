"""``nsmae doctor``, or ``python -m nsmae_plugin.doctor``: diagnosis of the installation.

Exits with 0 when the active host can run here, else with 1.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata

import nsmae_plugin
from nsmae_plugin.errors import INSTALL_SPCONV

# module -> distribution to install; the plugin cannot work without these
REQUIRED = {
    "torch": "torch",
    "numpy": "numpy",
    "numba": "numba",
    "yaml": "pyyaml",
    "easydict": "easydict",
    "PIL": "pillow",
    "nuscenes": "nuscenes-devkit",
    "spconv": INSTALL_SPCONV,
}
SHOWN = ("torch", "numpy", "spconv", "cumm", "nuscenes-devkit", "torchvision", "pcdet")


@dataclass
class Diagnosis:
    """The findings of the doctor, shown by :func:`render`.

    Attributes:
        versions: distribution -> version, or None where it is not installed.
        choice: value of NSMAE_HOST.
        active: name of the host that was imported, or None when none could be.
        extensions: OpenPCDet's compiled extension -> how it is served.
        stand_ins: package that the OpenPCDet host replaced -> why.
        devices: device -> what it is.
        checks: what was tried on a device -> "ok", or why it failed.
        problems: what keeps the active host from running.
        advice: what would improve a host that runs.
    """

    versions: dict[str, str | None] = field(default_factory=dict)
    choice: str = "auto"
    openpcdet_root: str | None = None
    active: str | None = None
    pcdet_location: str | None = None
    extensions: dict[str, str] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    omp_wait_policy: str | None = None
    checks: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def collect() -> Diagnosis:
    """Examine this environment; never raises because of what it finds."""
    found = Diagnosis(
        versions=_versions(),
        choice=os.environ.get("NSMAE_HOST", "auto"),
        openpcdet_root=os.environ.get("OPENPCDET_ROOT") or None,
        omp_wait_policy=os.environ.get("OMP_WAIT_POLICY"),
    )
    _look_for_two_builds(found)
    missing = [name for name in REQUIRED if not _importable(name, found)]
    if "torch" not in missing:
        found.devices = _devices()
        _warn_of_torch(found)
        _examine_host(found)
    if found.active and "spconv" not in missing:
        _try_sparse_convolution(found)
    _advise(found)
    return found


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "nsmae_plugin": nsmae_plugin.__version__,
        "python": platform.python_version(),
        **dict.fromkeys(SHOWN),
    }
    for name, version in _distributions():
        # the wheels for CUDA are called spconv-cu120, cumm-cu120 and so on
        if name in SHOWN or name.startswith(("spconv-cu", "cumm-cu")):
            base = name.partition("-cu")[0]
            versions[base] = f"{version}{name[len(base) :].replace('-', ' ')}"
    return versions


def _distributions() -> list[tuple[str, str]]:
    """Name, normalised, and version of everything that is installed."""
    return [
        ((one.metadata["Name"] or "").lower().replace("_", "-"), one.version)
        for one in metadata.distributions()
    ]


def _look_for_two_builds(found: Diagnosis) -> None:
    """Report several builds of spconv: each writes the same files, so that the last one counts."""
    names = {name for name, _ in _distributions()}
    builds = sorted(name for name in names if name == "spconv" or name.startswith("spconv-cu"))
    if len(builds) > 1:
        found.problems.append(
            f"{' and '.join(builds)} overwrite each other's files: "
            f"pip uninstall {' '.join(builds)}, then install the one for this machine"
        )


def _importable(module: str, found: Diagnosis) -> bool:
    """Return whether ``module`` can be imported; otherwise append the reason to the problems."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        found.problems.append(f"{error.name} is not installed: pip install {REQUIRED[module]}")
        return False
    except Exception as error:  # a broken binary package can raise anything at import
        found.problems.append(
            f"{module} is installed but broken ({_short(error)}): reinstall {REQUIRED[module]}"
        )
        return False
    return True


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        devices[f"cuda:{index}"] = f"{properties.name}, {memory}, CUDA {torch.version.cuda}"
    return devices


def _warn_of_torch(found: Diagnosis) -> None:
    from nsmae_plugin.runtime.torch_files import unsafe_torch

    warning = unsafe_torch()
    if warning:
        found.advice.append(warning)


def _examine_host(found: Diagnosis) -> None:
    try:
        from nsmae_plugin import host
    except Exception as error:  # the doctor reports any failure
        found.problems.append(f"the host cannot be imported: {_short(error)}")
        return
    found.active = host.NAME
    description = host.DESCRIPTION
    found.versions["pcdet"] = description.version or found.versions["pcdet"]
    found.pcdet_location = description.location
    found.extensions, found.stand_ins = description.extensions, description.stand_ins


def _try_sparse_convolution(found: Diagnosis) -> None:
    """Run a kernel of spconv: an import does not detect a wrong CUDA version."""
    for device in found.devices:
        check = f"sparse convolution, forward and backward, on {device}"
        try:
            _sparse_convolution(device)
            found.checks[check] = "ok"
        except Exception as error:  # the doctor reports any failure
            found.checks[check] = _short(error)
            found.problems.append(
                f"spconv fails on {device}: install the wheel that matches your CUDA version"
            )


def _sparse_convolution(device: str) -> None:
    import spconv.pytorch as spconv
    import torch

    from nsmae_plugin.ops import spconv_cpu

    spconv_cpu.apply()
    indices = torch.tensor([[0, 1, 1, 1], [0, 2, 2, 2]], dtype=torch.int32, device=device)
    features = torch.ones(2, 4, device=device, requires_grad=True)
    layer = spconv.SubMConv3d(4, 4, 3, bias=False).to(device)
    layer(spconv.SparseConvTensor(features, indices, [4, 4, 4], 1)).features.sum().backward()
    if features.grad is None or not bool(features.grad.isfinite().all()):
        raise RuntimeError("the gradient is not finite")


def _advise(found: Diagnosis) -> None:
    native = [name for name, served in found.extensions.items() if served != "compiled"]
    if native and len(found.devices) > 1:
        found.advice.append(
            f"{len(native)} of OpenPCDet's extensions are not compiled; everything that the "
            "plugin's configurations use runs without, but `python setup.py develop` in "
            f"{found.pcdet_location} may be faster"
        )
    refusing = [n for n, served in found.extensions.items() if served.startswith("refuses")]
    if refusing:
        found.advice.append(
            f"detectors on raw points (PointRCNN, PV-RCNN) need a compiled {', '.join(refusing)}"
        )
    if found.active and not (found.pcdet_location or found.openpcdet_root):
        found.advice.append(
            "to run inside OpenPCDet, set OPENPCDET_ROOT to a checkout of it; no compilation needed"
        )
    if (found.omp_wait_policy or "").upper() != "PASSIVE" and len(found.devices) == 1:
        found.advice.append(
            "set OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=2000: "
            "the thread pools of torch and spconv starve each other"
        )


def _short(error: Exception) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def render(found: Diagnosis) -> str:
    """The diagnosis as text for a terminal."""
    root = found.openpcdet_root or "not set"
    blocks = [
        ("Versions", {name: version or "-" for name, version in found.versions.items()}),
        (
            "Host",
            {
                "active": found.active or "none",
                "NSMAE_HOST": found.choice,
                "OPENPCDET_ROOT": root,
                **({"pcdet": found.pcdet_location} if found.pcdet_location else {}),
            },
        ),
        ("OpenPCDet's compiled extensions", found.extensions),
        ("Stand-ins", found.stand_ins),
        ("Devices", {**found.devices, "OMP_WAIT_POLICY": found.omp_wait_policy or "not set"}),
        ("Checks", found.checks),
    ]
    lines = [line for title, entries in blocks if entries for line in _block(title, entries)]
    lines += _list("Problems", found.problems) + _list("Advice", found.advice)
    lines.append(
        "The active host cannot run." if found.problems else f"The {found.active} host is ready."
    )
    return "\n".join(lines)


def _block(title: str, entries: dict[str, str]) -> list[str]:
    width = max(len(name) for name in entries)
    return [title, *(f"  {name:<{width}}  {value}" for name, value in entries.items()), ""]


def _list(title: str, entries: Sequence[str]) -> list[str]:
    return [title, *(f"  - {entry}" for entry in entries), ""] if entries else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the diagnosis; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the diagnosis as JSON")
    options = parser.parse_args(arguments)
    found = collect()
    print(json.dumps(asdict(found), indent=2) if options.json else render(found))
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
