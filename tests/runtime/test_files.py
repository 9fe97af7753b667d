"""Files are whole or as they were before, whatever happens to the process that writes them."""

import errno
import os
import signal
import threading

import numpy as np
import pytest
import torch

from nsmae_plugin.errors import OutputError
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.command_line import errors_in_one_line
from tests.helpers.programs import run_python

WRITE_AND_DIE = """
import os, signal, sys
from nsmae_plugin.runtime import files
with files.replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
        assert len(names(tmp_path)) == 2
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_the_usual_permissions_apply(tmp_path):
    previous = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a.txt", "ä")
    finally:
        os.umask(previous)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()


@pytest.mark.parametrize("error", [ValueError("content"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with files.replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    status = run_python("-c", WRITE_AND_DIE, path).returncode
    assert status == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = set(names(tmp_path)) - {"a.txt"}
    with files.replacing(path) as file:
        assert left not in names(tmp_path)
        file.write(b"new")
        mine = set(names(tmp_path))
        # What a process that starts now does before its own first write:
        files.remove_leftovers.__wrapped__(tmp_path)
        assert set(names(tmp_path)) == mine
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.txt"
    contents = [bytes([65 + number]) * 100_000 for number in range(4)]

    def write(content):
        for _ in range(10):
            files.write_bytes(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        files.remove_leftovers.__wrapped__(tmp_path)
        assert not path.exists() or path.read_bytes() in contents
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (files.write_text, files.append_text):
        with pytest.raises(OutputError, match=r"cannot write .*file/a: Not a directory; check"):
            write(tmp_path / "file" / "a", "")
    with pytest.raises(OutputError, match="file/a: Not a directory"):
        files.make_folder(tmp_path / "file" / "a")
    with pytest.raises(OutputError, match="absent/a: No such file"):
        files.write_text(tmp_path / "absent" / "a", "")


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: it is not a regular file"):
        files.write_text(tmp_path / "pipe", "")
    assert names(tmp_path) == ["pipe"]


def test_a_disk_that_is_full_leaves_no_part_of_a_checkpoint(tmp_path, monkeypatch):
    """torch.save ends with a RuntimeError of its own there; the cause counts."""
    path = tmp_path / "a.pth"
    path.write_text("old")

    class FullDisk:
        def __init__(self, file):
            self.file, self.left = file, 100_000

        def write(self, content):
            self.left -= len(content)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

        def flush(self):
            self.file.flush()

    with (
        pytest.raises(OutputError, match=r"a\.pth: No space left on device; .*free space"),
        files.replacing(path) as file,
    ):
        torch.save({"a": torch.zeros(100_000)}, FullDisk(file))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.pth"]


def test_tools_report_errors_of_files_in_one_line_and_mistakes_of_programs_in_full(capsys):
    @errors_in_one_line
    def tool(error):
        raise error

    assert tool(OutputError("cannot write a")) == 1
    assert tool(PermissionError(errno.EACCES, "Permission denied", "b/c")) == 1
    assert tool(OSError(errno.ENOSPC, "No space left on device")) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: cannot write a",
        "error: b/c: Permission denied",
        "error: No space left on device",
    ]
    with pytest.raises(OSError, match="mistake"):
        tool(OSError("mistake"))


@pytest.mark.parametrize("allocate", [np.empty, torch.empty])
def test_memory_that_ran_out_is_told_in_one_line(allocate, capsys):
    @errors_in_one_line
    def main():
        return allocate(1 << 50)

    assert main() == 1
    told = capsys.readouterr().err
    assert told.startswith("error: memory ran out")
    assert told.count("\n") == 1
