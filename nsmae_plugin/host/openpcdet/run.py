"""Running a script of OpenPCDet, unmodified, without OpenPCDet's CUDA build.

The script sees what it expects: its own folder as first entry of ``sys.path``, and its own
arguments. It runs where its ``--cfg_file`` is found: in the directory where the command was
started, as for a configuration of one's own, or else in the script's folder, which the
configurations that OpenPCDet ships expect. Everything that :mod:`nsmae_plugin.host.openpcdet` puts
in place is there before it starts, and so are the plugin's classes, which its configurations may
name.
"""

import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.errors import HostError, OutputError
from nsmae_plugin.host.openpcdet import DESCRIPTION
from nsmae_plugin.host.openpcdet.loading import USAGE

INPUTS = ("--ckpt", "--ckpt_dir", "--pretrained_model")  # arguments that name what exists


def main(arguments: Sequence[str]) -> None:
    """Run ``arguments[0]``, a path from the root of OpenPCDet or from here, with the others.

    The process is the script's from then on: working directory, ``sys.path`` and ``sys.argv``.

    Raises:
        HostError: there is no such script, or it belongs to another copy of OpenPCDet; NSMAE_HOST
            names another host; or a configuration or a checkpoint is found neither here nor in the
            script's folder.
        OutputError: the script cannot write to ``output/`` in OpenPCDet's checkout.
    """
    if not arguments:
        raise HostError(f"no script was named; {USAGE.splitlines()[0]}")
    root = Path(str(DESCRIPTION.location)).resolve().parent
    script = find_script(arguments[0], root)
    if host.NAME != "openpcdet":
        raise HostError(
            f"NSMAE_HOST={host.NAME}, but OpenPCDet's scripts run on OpenPCDet: unset NSMAE_HOST"
        )
    nsmae_plugin.register()
    folder = working_directory(script.parent, arguments[1:])
    sys.argv = [str(script), *locate_inputs(script.parent, arguments[1:])]
    os.chdir(folder)
    sys.path.insert(0, str(script.parent))
    with unwritable_output_named(root):
        runpy.run_path(str(script), run_name="__main__")


@contextmanager
def unwritable_output_named(root: Path) -> Iterator[None]:
    """Turn an error of a file below ``root/output`` into an ``OutputError`` with the remedy."""
    try:
        yield
    except OSError as error:
        if not str(error.filename).startswith(str(root / "output")):
            raise
        raise OutputError(
            f"OpenPCDet's scripts write below {root / 'output'}, but {error.filename} cannot be "
            f"written ({error.strerror}): set OPENPCDET_ROOT to a copy of the checkout that can"
        ) from error


def find_script(name: str, root: Path) -> Path:
    """The absolute path of a script, below ``root`` or else below the working directory.

    Raises:
        HostError: there is none, or it lies in a checkout other than the imported one at ``root``.
    """
    candidates = [root / name, Path(name).resolve()]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        places = " nor ".join(map(str, dict.fromkeys(candidates)))
        raise HostError(f"there is no script {places}; set OPENPCDET_ROOT to the checkout it is in")
    for folder in found.parents:
        if (folder / "pcdet" / "__init__.py").is_file() and folder != root:
            raise HostError(
                f"{found} belongs to the OpenPCDet at {folder}, but {root} was imported; "
                f"set OPENPCDET_ROOT={folder}"
            )
    return found


def working_directory(script_folder: Path, arguments: Sequence[str]) -> Path:
    """Where the relative path after ``--cfg_file`` leads to a file; else the script's folder.

    Raises:
        HostError: there is no such file.
    """
    names = [value for _, key, value in _options(arguments) if key == "--cfg_file"]
    if not names:
        return script_folder
    return _folder_with(names[-1], script_folder, "--cfg_file")


def locate_inputs(script_folder: Path, arguments: Sequence[str]) -> list[str]:
    """The arguments with absolute paths after the options of INPUTS.

    Raises:
        HostError: one of them exists neither here nor in the script's folder.
    """
    result = list(arguments)
    for position, key, value in _options(arguments):
        if key in INPUTS:
            path = str(_folder_with(value, script_folder, key) / value)
            result[position] = result[position].replace(value, path)
    return result


def _options(arguments: Sequence[str]) -> list[tuple[int, str, str]]:
    """Position of the value, name and value of what is given as ``--name value``, ``--name=value``.

    What follows ``--set`` are keys of the configuration.
    """
    end = arguments.index("--set") if "--set" in arguments else len(arguments)
    options = []
    for position, argument in enumerate(arguments[:end]):
        key, equals, value = argument.partition("=")
        if equals:
            options.append((position, key, value))
        elif position + 1 < end:
            options.append((position + 1, key, arguments[position + 1]))
    return [option for option in options if option[1].startswith("--")]


def _folder_with(name: str, script_folder: Path, option: str) -> Path:
    folders = (Path.cwd(), script_folder)
    found = next((folder for folder in folders if (folder / name).exists()), None)
    if found is None:
        places = " nor ".join(dict.fromkeys(str(folder / name) for folder in folders))
        raise HostError(f"{option} {name}: there is no {places}")
    return found
