"""Pickles from elsewhere hold data, run nothing, and take memory in proportion to their size."""

import os
import pickle
import struct
import subprocess
import sys
import textwrap
from collections import OrderedDict

import numpy as np
import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.runtime.safe_pickle import load_plain
from tests.helpers.programs import run_python

BIG = struct.pack("<Q", 1 << 40)


def load(folder, content: bytes):
    path = folder / "a.pkl"
    path.write_bytes(content)
    return load_plain(path, "the file", "make it anew")


def refusal(folder, content: bytes) -> str:
    """The message, which is one short line and names the file and the remedy."""
    with pytest.raises(DataError) as caught:
        load(folder, content)
    message = str(caught.value)
    assert f"the file {folder / 'a.pkl'}" in message
    assert message.endswith("; make it anew")
    assert len(message) < 500
    assert message.isprintable()
    return message


ARRAYS = {
    "text": np.array([["car", ""], ["größer", "b"]]),
    "bytes": np.array([b"a", b"bcd"]),
    "no boxes": np.zeros((0, 9)),
    "no names": np.zeros(0, dtype=str),
    "point": np.array(3.0),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "big endian": np.arange(3, dtype=">i4"),
    "half": np.array([np.nan, 1], dtype=np.float16),
    "complex": np.array([1 + 2j]),
    "flags": np.array([True, False]),
    "empty rows": np.zeros((3, 0)),
}


@pytest.mark.parametrize("protocol", range(6))
def test_what_was_written_is_read(tmp_path, protocol):
    shared = np.arange(2.0)
    info = {
        **ARRAYS,
        "scalars": [np.float64(2.5), np.int32(-3), np.bool_(True), np.str_("x"), np.str_("")],
        "nested": [{"a": (1, 2.0, "x", b"y\xff", None, {3}, frozenset({4}))}, 1j, bytearray(b"z")],
        "ordered": OrderedDict(a=1),
        "shared": [shared, (shared, [shared])],
        "long": 1 << 100,
        "text": "é\n" * 300,
        "many": list(range(70_000)),  # places of four bytes in the table of what was seen before
    }
    result = load(tmp_path, pickle.dumps([info], protocol=protocol))
    np.testing.assert_equal(result, [info])
    for name, array in ARRAYS.items():
        if name != "text":
            assert (result[0][name].dtype, result[0][name].shape) == (array.dtype, array.shape)
            assert result[0][name].flags.writeable
    first, (second, (third,)) = result[0]["shared"]
    assert first is second is third


def test_files_of_numpy_2_are_read(tmp_path):
    content = pickle.dumps([np.arange(3.0)], protocol=2)
    assert b"cnumpy.core.multiarray\n" in content
    result = load(tmp_path, content.replace(b"cnumpy.core.multi", b"cnumpy._core.multi"))
    np.testing.assert_equal(result, [np.arange(3.0)])
    words = [np.ones((2, 3)).tobytes(), np.dtype(float), (3, 2), "K", (1, 0)]

    class Buffer:  # as of NumPy 2.3, whose order of the axes is new
        def __reduce__(self):
            return np.core.numeric._frombuffer, tuple(words)

    content = pickle.dumps(Buffer(), protocol=5).replace(b"numpy.core.num", b"numpy._core.num")
    content = content.replace(b"\x12numpy._core", b"\x13numpy._core").replace(b"\x95", b"\x95")
    framed = content.index(b"\x95")
    content = content[:framed] + content[framed + 9 :]  # (the frame is one byte longer now)
    np.testing.assert_equal(load(tmp_path, content), np.ones((2, 3)))


def reduced(function, *arguments, state=None):
    """A pickle of what a call of ``function`` gives, with a state."""

    class Made:
        def __reduce__(self):
            return (function, arguments) if state is None else (function, arguments, state)

    return pickle.dumps(Made(), protocol=4)


_reconstruct, _scalar = np.core.multiarray._reconstruct, np.core.multiarray.scalar
_frombuffer = np.core.numeric._frombuffer
POINTERS = b"\x41" * 16


class Typed:
    """A ``numpy.dtype`` with a state of one's own."""

    def __init__(self, code, *state):
        self.code, self.state = code, state

    def __reduce__(self):
        return (np.dtype, (self.code, False, True), self.state or None)


@pytest.mark.parametrize(
    "content",
    [
        reduced(_frombuffer, POINTERS, np.dtype(object), (2,), "C"),
        reduced(_frombuffer, POINTERS, "O", (2,), "C"),
        reduced(_scalar, np.dtype(object), POINTERS),
        reduced(_reconstruct, np.ndarray, (0,), b"O", state=(1, (2,), np.dtype("O"), 0, POINTERS)),
        reduced(_reconstruct, np.ndarray, (0,), b"b", state=(1, (1,), np.dtype("O"), 0, [None])),
        reduced(_reconstruct, np.ndarray, (0,), b"b"),
        reduced(
            _frombuffer, POINTERS, Typed("V8", 3, "|", None, ("a",), None, 8, 1, 63), (2,), "C"
        ),
        # A type that says that it holds objects, or has fields, or a size of its own.
        reduced(_frombuffer, POINTERS, Typed("f8", 3, "<", None, None, None, 8, 8, 63), (2,), "C"),
        reduced(_frombuffer, POINTERS, Typed("S8", 3, "|", None, ("a",), {}, 8, 1, 0), (2,), "C"),
        reduced(_frombuffer, POINTERS, Typed("S8", 3, "|", None, None, None, 16, 1, 0), (2,), "C"),
        reduced(
            _frombuffer, POINTERS, Typed("S8", 3, "|", (np.dtype("O"), (1,)), None, None, 8, 1, 0)
        ),
        pickle.dumps(np.array([None, 1], dtype=object), protocol=4),
        pickle.dumps(np.zeros(2, dtype=[("a", "f8")]), protocol=4),
        pickle.dumps(np.zeros(2, dtype="datetime64[s]"), protocol=4),
        pickle.dumps(np.dtype("f8"), protocol=4),
        pickle.dumps(np.ndarray, protocol=4),
        pickle.dumps([_scalar], protocol=4),
    ],
)
def test_arrays_are_made_of_numbers_and_text_only(tmp_path, content):
    refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("array", "value"),
    [(np.array(["ab"]), b"\xff\xff\xff\x7f"), (np.array(["ab"]), b"\x00\xd8\x00\x00")],
)
def test_text_that_is_none_is_refused(tmp_path, array, value):
    content = pickle.dumps(array, protocol=4)
    assert "other values" in refusal(tmp_path, content.replace(b"a\0\0\0", value))


def test_truth_values_that_are_none_are_refused(tmp_path):
    content = reduced(_frombuffer, b"\x02\x01", np.dtype(bool), (2,), "C")
    assert "other values" in refusal(tmp_path, content)


ATTACK = """
import os, pickle, numpy as np
class Objects:  # a type of objects that says it is none, so that NumPy takes raw bytes for pointers
    def __reduce__(self):
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)
class Array:
    def __reduce__(self):
        state = 1, (4,), Objects(), False, b"ABCDEFGH" * 4
        return np.core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state
class Buffer:
    def __reduce__(self):
        return np.core.numeric._frombuffer, (b"ABCDEFGH" * 4, Objects(), (4,), "C")
class Scalar:
    def __reduce__(self):
        return np.core.multiarray.scalar, (Objects(), b"ABCDEFGH")
class Command:
    def __reduce__(self):
        return os.system, ("touch %(marker)s",)
"""


def in_a_fresh_process(script: str) -> subprocess.CompletedProcess:
    return run_python("-W", "ignore", "-c", textwrap.dedent(script))


@pytest.mark.parametrize("name", ["Array", "Buffer", "Scalar", "Command"])
def test_a_made_up_file_runs_nothing_in_a_fresh_process(tmp_path, name):
    """Unpickled, the first three make the process follow made-up pointers, the last a command."""
    path, marker = tmp_path / "infos.pkl", tmp_path / "marker"
    scope: dict = {}
    exec(ATTACK % {"marker": marker}, scope)
    path.write_bytes(pickle.dumps([{"token": scope[name]()}], protocol=5))
    unsafe = in_a_fresh_process(f"import pickle; repr(pickle.load(open({str(path)!r}, 'rb')))")
    assert unsafe.returncode < 0 or marker.exists()
    marker.unlink(missing_ok=True)
    done = in_a_fresh_process(f"""
        import sys
        from pathlib import Path
        from nsmae_plugin.formats.infos import read_infos
        from nsmae_plugin.errors import NSMAEError
        try:
            repr(read_infos(Path({str(path)!r})))
        except NSMAEError as error:
            sys.exit(f"error: {{error}}")
    """)
    assert done.returncode == 1, done
    assert done.stderr.startswith(f"error: the info file {path} cannot be used: ")
    assert len(done.stderr.splitlines()) == 1
    assert not marker.exists()


def text(words: str) -> bytes:
    return b"\x8c" + bytes([len(words)]) + words.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


BOMBS = {
    "a place in the table far away": b"\x80\x04Nr\xff\xff\xff\xff.",
    "the same in words": b"Np4294967295\n.",
    "a long byte string": b"\x80\x04\x8e" + BIG + b"x.",
    "a long text": b"\x80\x04\x8d" + BIG + b"x.",
    "a long byte array": b"\x80\x05\x96" + BIG + b"x.",
    "a long frame": b"\x80\x04\x95" + BIG + b"N.",
    "a long number": b"\x80\x04\x8b" + struct.pack("<I", 1 << 31) + b"x.",
    "a long number in words": b"L" + b"9" * 100_000 + b"L\n.",
    "bytes by their number": b"\x80\x04" + named("builtins", "bytes") + b"J\xff\xff\xff\x7f\x85R.",
    "a byte array by its number": (
        b"\x80\x04" + named("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R."
    ),
    "a set of a byte string": b"\x80\x04" + named("builtins", "set") + b"C\x01x\x85R.",
    "text in another encoding": (
        b"\x80\x04" + named("_codecs", "encode") + text("x") + text("zlib") + b"\x86R."
    ),
    "an array without content": reduced(
        _reconstruct, np.ndarray, (0,), b"b", state=(1, (1 << 40,), np.dtype("S0"), False, b"")
    ),
    "rows of nothing": reduced(_frombuffer, b"", np.dtype("f8"), (1 << 30, 0), "C"),
    "the same byte string over and over": (
        b"\x80\x04C\xc8" + bytes(200) + b"\x940]"
        + (named("builtins", "bytearray") + b"h\x00\x85Ra") * 40 + b"."
    ),
    "lists that hold the one before twice": b"\x80\x04]\x94"
    + b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"e\x94" for n in range(28)) + b".",
    "a list that holds itself": b"\x80\x04]\x94h\x00a.",
    "lists in lists": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "an instruction across the end of a frame": (
        b"\x80\x04\x95" + struct.pack("<Q", 3) + b"N0J" + b"\0\0\0\0" + b"r\xff\xff\xff\xff."
    ),
    "a frame in a frame": b"\x80\x04\x95" + struct.pack("<Q", 10) + b"\x95" + bytes(8) + b"N.",
    "an extension": b"\x80\x02\x82\x01.",
    "an object from outside": b"\x80\x04" + text("x") + b"Q.",
    "an object made of a class": b"\x80\x04" + named("numpy", "ndarray") + b")\x81.",
    "a function that is changed": (
        b"\x80\x04" + named("numpy", "dtype") + b"}" + text("_make") + b"Nsb."
    ),
    "no end": b"\x80\x04N",
    "nothing": b"",
}  # fmt: skip

LIMITED = """
import resource, sys
from pathlib import Path
from nsmae_plugin.runtime.safe_pickle import load_plain
from nsmae_plugin.errors import DataError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
for path in sys.argv[1:]:
    try:
        print("read", load_plain(Path(path), "it", "remedy"))
    except DataError as error:
        assert not isinstance(error.__cause__, MemoryError), error
        print(error)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(tmp_path, name):
    refusal(tmp_path, BOMBS[name])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_bombs_take_no_memory(tmp_path):
    """All of them in a process that may take 64 MB more: the message is not that memory failed."""
    paths = [tmp_path / f"{number}.pkl" for number in range(len(BOMBS))]
    for path, content in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(content)
    done = run_python("-c", LIMITED, *paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be used") == len(BOMBS)


def test_bits_that_flip_are_told_or_change_data_only(tmp_path):
    rng = np.random.default_rng(0)
    info = {"token": "a", "boxes": rng.normal(size=(3, 9)), "names": np.array(["car"] * 3)}
    good = pickle.dumps([info] * 2, protocol=4)
    refused = 0
    for _ in range(300):
        content = bytearray(good)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        try:
            load(tmp_path, bytes(content))
        except DataError:
            refusal(tmp_path, bytes(content))
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "name", "long name"])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, kind):
    path = tmp_path / "a.pkl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path = tmp_path / ("a\0b" if kind == "name" else "a" * 300)
    with pytest.raises(DataError, match=r"the file .*; make it anew") as caught:
        load_plain(path, "the file", "make it anew")
    assert len(str(caught.value)) < 500
