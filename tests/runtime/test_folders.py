"""A folder is replaced as a whole or not at all, and what killed processes left is repaired."""

import os
from pathlib import Path

import pytest

from nsmae_plugin.errors import OutputError
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.files import replacing_folder, restore


def write(folder, content):
    (folder / "file").write_text(content)


@pytest.fixture
def old(tmp_path):
    """A folder with old content."""
    path = tmp_path / "world"
    path.mkdir()
    write(path, "old")
    return path


def test_the_new_folder_takes_the_place_of_the_old_one(old):
    with replacing_folder(old) as folder:
        write(folder, "new")
        assert (old / "file").read_text() == "old"
    assert (old / "file").read_text() == "new"
    assert os.listdir(old.parent) == ["world"]


def test_an_exception_leaves_the_old_one_and_nothing_else(old):
    def replace_and_stop():
        with replacing_folder(old) as folder:
            write(folder, "new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_and_stop()
    assert (old / "file").read_text() == "old"
    assert os.listdir(old.parent) == ["world"]


def test_a_failure_between_the_two_renames_brings_the_old_one_back(old, monkeypatch):
    def fail_second(self, target, rename=Path.rename):
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    writing = pytest.raises(OutputError, match="world: Input/output error")
    with writing, replacing_folder(old) as folder:
        write(folder, "new")
    assert (old / "file").read_text() == "old"
    assert os.listdir(old.parent) == ["world"]


def test_after_a_kill_between_the_two_renames_nothing_is_lost(old, monkeypatch):
    def swap(partial, path, previous):
        path.rename(previous)
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(files, "_swap", swap)
        with replacing_folder(old) as folder:
            write(folder, "new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not old.exists()
    restore(old)
    assert (old / "file").read_text() == "old"
    with replacing_folder(old) as folder:
        assert len(os.listdir(old.parent)) == 2  # what the killed process had begun is gone
        write(folder, "newer")
    assert (old / "file").read_text() == "newer"
    assert os.listdir(old.parent) == ["world"]


def test_two_writers_do_not_disturb_each_other(old):
    with replacing_folder(old) as first:
        with replacing_folder(old) as second:
            write(second, "second")
        assert (old / "file").read_text() == "second"
        write(first, "first")
    assert (old / "file").read_text() == "first"
    assert os.listdir(old.parent) == ["world"]
