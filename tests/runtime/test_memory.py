"""Freed memory stays with the process, until it is released, or goes back to the system."""

import platform

import pytest

from nsmae_plugin.runtime.memory import CHOICES, keep_freed_memory
from tests.helpers.programs import run_python

MIB = 2**20
#: Touches 64 MiB, frees them, and prints what was set and by how much the process has grown.
PROGRAM = """
import numpy, os, sys
from nsmae_plugin.runtime.memory import keep_freed_memory, release_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
kept = sys.argv[1] != "default" and keep_freed_memory()
before = resident()
blocks = [numpy.ones(32 << 20, numpy.uint8) for _ in range(2)]
del blocks
if sys.argv[1] == "released":
    release_freed_memory()
print(kept, resident() - before)
"""


def grown(mode):
    """What was set, and the MiB that stayed."""
    done = run_python("-c", PROGRAM, mode, without=sorted(CHOICES))
    assert done.returncode == 0, done.stderr
    kept, size = done.stdout.split()
    return kept == "True", int(size) / MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_stays_with_the_process_until_it_is_released():
    sizes = {mode: grown(mode) for mode in ("default", "kept", "released")}
    assert [sizes[mode][0] for mode in sizes] == [False, True, True]
    assert sizes["kept"][1] > 60
    assert max(sizes["default"][1], sizes["released"][1]) < 4


def test_what_the_user_has_set_stays(monkeypatch):
    for name in CHOICES:
        with monkeypatch.context() as patch:
            patch.setenv(name, "1000000")
            assert not keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch):
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
