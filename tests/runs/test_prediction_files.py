"""A folder of predictions holds those of one network."""

import json

import numpy as np
import pytest

from nsmae_plugin.errors import OutputError
from nsmae_plugin.runs.infer import refuse_other_networks
from nsmae_plugin.runs.prediction import BOXES, MAP


def write(folder, boxes=None, of_map=None):
    folder.mkdir()
    if boxes:
        (folder / BOXES).write_text(json.dumps({"network": boxes, "boxes": []}))
    if of_map:
        np.savez_compressed(folder / MAP, network=np.array(of_map))
    return folder


def test_new_folders_and_those_of_the_same_network_pass(tmp_path):
    folders = [tmp_path / "none", write(tmp_path / "a", "net, epoch 3", "net, epoch 3")]
    refuse_other_networks(folders, "net, epoch 3")


@pytest.mark.parametrize("kind", ["boxes", "of_map"])
def test_folders_of_another_network_are_refused_before_anything_is_written(tmp_path, kind):
    good, other = write(tmp_path / "a", "net"), write(tmp_path / "b", **{kind: "other"})
    name = BOXES if kind == "boxes" else MAP
    message = rf"{other / name} was predicted by other, and this is net; choose another"
    with pytest.raises(OutputError, match=message):
        refuse_other_networks([good, other], "net")


@pytest.mark.parametrize("name", [BOXES, MAP])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff" * 1000, b"PK\x03\x04" * 50])
def test_damaged_files_count_as_something_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match="predicted by something else"):
        refuse_other_networks([tmp_path], "net")
