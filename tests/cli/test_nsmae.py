"""The command ``nsmae``: what it lists, how it names itself, and what it ends with."""

import sys

import pytest

import nsmae_plugin
from nsmae_plugin.cli.__main__ import COMMANDS, main, run
from tests.helpers.command_lines import module_of
from tests.helpers.programs import run_python


def output_of(*words, monkeypatch, capsys):
    """What ``nsmae`` prints before it leaves with a status of 0."""
    monkeypatch.setattr(sys, "argv", ["/bin/nsmae", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_help_lists_every_command_without_importing_torch():
    code = """
import atexit, sys
from nsmae_plugin.cli.__main__ import main
sys.argv[1:] = ["--help"]
atexit.register(lambda: print("torch" in sys.modules, "numpy" in sys.modules))
main()
"""
    outcome = run_python("-c", code)
    *text, imported = outcome.stdout.splitlines()
    listed = {line.split()[0] for line in text if line.startswith("    ")}
    assert listed >= COMMANDS.keys()
    assert imported == "False False"


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    text = output_of("--version", monkeypatch=monkeypatch, capsys=capsys)
    assert text == f"nsmae_plugin {nsmae_plugin.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help_under_its_own_name(command, monkeypatch, capsys):
    text = output_of(command, "--help", monkeypatch=monkeypatch, capsys=capsys)
    assert text.startswith(f"usage: nsmae {command} ")
    assert sys.argv == [f"nsmae {command}", "--help"]


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"doctor", "configs"}))
def test_every_command_is_a_tool_as_well(command):
    tool = COMMANDS[command][0].removeprefix("nsmae_plugin.cli.")
    entry = module_of(tool).main
    assert (entry.func, entry.args) == (run, (command,))


def test_an_error_while_a_command_is_imported_is_one_line():
    outcome = run_python("-m", "nsmae_plugin.cli", "train", NSMAE_HOST="nonsense")
    assert outcome.returncode == 1
    assert outcome.stderr == "error: NSMAE_HOST='nonsense' is not one of auto, openpcdet, builtin\n"


@pytest.mark.openpcdet
def test_inside_openpcdet_a_missing_spconv_is_one_line(openpcdet_root):
    code = "import sys; sys.modules['spconv'] = None; from nsmae_plugin.cli.__main__ import main"
    code += "; sys.argv[1:] = ['train']; sys.exit(main())"
    outcome = run_python("-c", code, NSMAE_HOST="openpcdet", OPENPCDET_ROOT=str(openpcdet_root))
    assert outcome.returncode == 1
    (line,) = (one for one in outcome.stderr.splitlines() if one.startswith("error: "))
    assert "pip install spconv (without a GPU), or pip install spconv-cu126" in line
    assert "Traceback" not in outcome.stderr
