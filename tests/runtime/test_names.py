"""Names from files become names of files, or are refused in one line."""

import numpy as np
import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.runtime.file_names import file_name


@pytest.mark.parametrize("name", ["a1b2", "scene-0103", "Größe 3", "..a", "a.b", "a" * 200])
def test_a_plain_name_stays(name):
    assert file_name(name, "a token") == name
    assert type(file_name(np.str_(name), "a token")) is str


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../../x", "another folder"),
        ("/etc/x", "another folder"),
        ("a/b", "another folder"),
        ("a\\b", "another folder"),
        ("..", "another folder"),
        (".", "another folder"),
        ("", "another folder"),
        ("a\0b", "another folder"),
        ("a\nb", "cannot be shown"),
        ("a\x1b[2J", "cannot be shown"),
        ("a\ud800", "cannot be shown"),
        ("é" * 101, "longer than 200 bytes"),
        ("x" * 1_000_000, "longer than 200 bytes"),
        (3, "no string"),
        (None, "no string"),
    ],
)
def test_anything_else_is_refused_in_one_line(name, problem):
    with pytest.raises(DataError, match=problem) as caught:
        file_name(name, "the token of a sample")
    message = str(caught.value)
    assert message.startswith("the token of a sample, ")
    assert len(message) < 300
    assert message.isprintable()
