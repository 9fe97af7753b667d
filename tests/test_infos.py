"""Info files are written as a whole and read without trust."""

import os
import pickle

import numpy as np
import pytest

from nsmae_plugin.data.infos import read_infos, write_infos


def test_writing_replaces_the_file_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "infos.pkl"
    write_infos(path, [{"token": "old"}])
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write_infos(path, [{"token": lambda: None}])
    assert read_infos(path) == [{"token": "old"}]
    assert os.listdir(tmp_path) == ["infos.pkl"]


@pytest.mark.parametrize("protocol", range(6))
def test_all_pickle_protocols_and_array_types_can_be_read(tmp_path, protocol):
    info = {
        "names": np.array(["car", "bus"]),
        "boxes": np.zeros((0, 9)),
        "mixed": np.array([None, 1], dtype=object),
        "scalar": np.float64(2.5),
        "flags": np.array([True]),
        "nested": [{"a": (1, 2.0, "x", b"y", None, {3})}],
    }
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps([info], protocol=protocol))
    np.testing.assert_equal(read_infos(path), [info])


def test_files_written_under_numpy_2_can_be_read(tmp_path):
    path = tmp_path / "infos.pkl"
    content = pickle.dumps([{"boxes": np.arange(3.0)}], protocol=2)
    assert b"cnumpy.core.multiarray\n" in content
    path.write_bytes(content.replace(b"cnumpy.core.multi", b"cnumpy._core.multi"))
    np.testing.assert_equal(read_infos(path), [{"boxes": np.arange(3.0)}])
