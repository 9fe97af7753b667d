"""Files of rows: written in parts, continued, and refused when they are damaged."""

import json

import numpy as np
import pytest

from nsmae_plugin.errors import DataError, OutputError
from nsmae_plugin.experiments.probe.row_files import RECORD, RowFiles

FIRST = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
SECOND = 100 + FIRST[:1]


def write(folder, *parts, total=3):
    with RowFiles(folder, total) as rows:
        for part in parts:
            rows.append({"values": part, "sums": part.sum((1, 2), dtype=np.float64)})
    return rows


def test_rows_are_read_as_they_were_written(tmp_path):
    assert not write(tmp_path, FIRST).complete
    assert write(tmp_path, SECOND).complete
    rows = RowFiles(tmp_path, 3)
    assert rows.complete
    assert list(rows.arrays) == ["values", "sums"]
    np.testing.assert_array_equal(rows.read("values"), np.concatenate((FIRST, SECOND)))
    assert rows.read("values").dtype == np.float16
    assert rows.read("sums").tolist() == [15, 51, 615]
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy"), rows.read("values"))


def test_what_is_read_may_be_changed_and_the_file_stays(tmp_path):
    write(tmp_path, FIRST, SECOND)
    rows = RowFiles(tmp_path, 3)
    values = rows.read("values")
    values[:] = 0
    assert rows.read("values")[2, 1, 2] == 105


def test_another_number_of_rows_begins_anew(tmp_path):
    write(tmp_path, FIRST, SECOND)
    rows = RowFiles(tmp_path, 2)
    assert rows.done == 0
    write(tmp_path, FIRST, total=2)
    np.testing.assert_array_equal(RowFiles(tmp_path, 2).read("values"), FIRST)


@pytest.mark.parametrize("content", ["", "[]", '{"total": 3}', '{"total": 3, "done": 1}'])
def test_a_damaged_record_is_told(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(DataError, match=f"{RECORD}.*remove {tmp_path}"):
        RowFiles(tmp_path, 3)


def test_lost_rows_are_told(tmp_path):
    write(tmp_path, FIRST)
    path = tmp_path / "values.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{path} is shorter than its record says: remove "):
        write(tmp_path, SECOND)


def test_damaged_files_are_told(tmp_path):
    write(tmp_path, FIRST, SECOND)
    rows = RowFiles(tmp_path, 3)
    path = tmp_path / "values.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"cannot read {path} .*: remove {tmp_path}"):
        rows.read("values")
    np.save(path, FIRST)
    with pytest.raises(DataError, match=f"{path} does not fit its record: remove {tmp_path}"):
        rows.read("values")
    path.unlink()
    with pytest.raises(DataError, match=f"cannot read {path}"):
        rows.read("values")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "values.npy").mkdir()
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}"):
        write(tmp_path, FIRST)


def test_the_record_counts_rows_that_are_in_the_files(tmp_path):
    """Also of the file that is written last."""
    rows = write(tmp_path, FIRST)
    assert json.loads((tmp_path / RECORD).read_text())["done"] == rows.done == 2
    sizes = {name: (tmp_path / f"{name}.npy").stat().st_size for name in ("values", "sums")}
    assert sizes == {"values": 128 + 2 * 12, "sums": 128 + 2 * 8}
