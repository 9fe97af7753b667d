"""Info files are written as a whole and read without trust."""

import os
import pickle

import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.infos import read_infos, write_infos


def test_writing_replaces_the_file_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "infos.pkl"
    write_infos(path, [{"token": "old"}])
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write_infos(path, [{"token": lambda: None}])
    assert read_infos(path) == [{"token": "old"}]
    assert os.listdir(tmp_path) == ["infos.pkl"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("builtins", "object"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),  # protocol 4 follows dots
        ("numpy.core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "scalar.__class__"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch", "load"),
    ],
)
def test_nothing_but_numpy_and_plain_containers_is_reached(tmp_path, module, name):
    """Each would be resolved by ``pickle.load``, and most are a step to running code."""
    path = tmp_path / "infos.pkl"
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    path.write_bytes(b"\x80\x04" + words + b"\x93.")  # SHORT_BINUNICODE twice, STACK_GLOBAL, STOP
    with pytest.raises(DataError, match=f"{name}, which no such file needs"):
        read_infos(path)
