"""Safe reading of pickles of NumPy arrays and plain containers.

A pickle names functions and calls them. NumPy's own constructors, which every pickled array names,
are not safe with made-up arguments: they make arrays of objects from raw bytes, which are then
taken for pointers. So nothing that a file names is ever called. Arrays, their types and scalars are
rebuilt here, of numbers, truth values and text only, and together take no more memory than the
file.
"""

from __future__ import annotations

import gc
import io
import math
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.runtime.pickle_scan import check_instructions
from nsmae_plugin.runtime.reading import GIB, read_bytes

KINDS = "biufcSU"  # of NumPy's types
MOST_BYTES = 16 * GIB
MOST_EMPTY = 1000  # length along any axis of an array without elements, such as of no boxes (0, 9)
MOST_LEVELS = 32  # of containers in one another
MOST_REPEATS = 16  # values per byte of the file, each counted wherever it is referred to


def load_plain(path: Path, what: str, remedy: str) -> Any:
    """Content of a pickle file that may hold NumPy arrays and plain containers only.

    Args:
        what, remedy: words for the messages, see
            :func:`~nsmae_plugin.runtime.reading.open_regular`.

    Raises:
        DataError: the file is missing, damaged, or asks for anything else.
    """
    content = read_bytes(path, what, remedy, MOST_BYTES)
    try:
        with _no_collection():
            check_instructions(content)
            loaded = _Unpickler(content).load()
            return _Places(MOST_REPEATS * len(content)).fill(loaded)[0]
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(f"{what} {path} cannot be used: {brief(error)}; {remedy}") from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause garbage collection, which would take half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _refuse(problem: str) -> NoReturn:
    raise pickle.UnpicklingError(problem)


class _Unpickler(pickle.Unpickler):
    """Resolves the few names that pickles of data hold, to stand-ins."""

    def __init__(self, content: bytes):
        super().__init__(io.BufferedReader(io.BytesIO(content)))  # type: ignore[arg-type]
        arrays, copies = _Budget(len(content)), _Budget(len(content))
        array = _Maker(lambda *_: _Array(arrays))
        self._names = {
            "numpy.ndarray": _Name(),
            "numpy.dtype": _Maker(_Type),
            "numpy.core.multiarray._reconstruct": array,
            "numpy.core.multiarray.scalar": _Maker(arrays.scalar),
            "numpy.core.numeric._frombuffer": _Maker(arrays.from_buffer),
            # How old protocols spell what later ones have instructions for.
            "_codecs.encode": _Maker(copies.encode),
            "builtins.bytes": _Maker(copies.copy_bytes),
            "builtins.bytearray": _Maker(copies.copy_bytearray),
            "builtins.set": _Maker(copies.copy_set),
            "builtins.frozenset": _Maker(lambda one: frozenset(copies.copy_set(one))),
            "builtins.complex": _Maker(lambda real, imag: complex(float(real), float(imag))),
            "collections.OrderedDict": _Maker(lambda: {}),
        }

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed numpy.core, Python 3 renamed __builtin__; old protocols keep old names.
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        try:
            return self._names[f"{module}.{name}"]
        except KeyError:
            _refuse(f"it asks for {brief(f'{module}.{name}')}, which no such file needs")


class _Budget:
    """Copies data of the file, at most as many bytes as the file has."""

    def __init__(self, size: int):
        self._left = size

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            _refuse("it asks for more memory than it is long")

    def array(self, content: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
        """An array of ``content``, the bytes of its elements."""
        if type(kind) is not _Type or type(content) not in (bytes, bytearray):
            _refuse("it holds an array of objects, or one without content")
        self._take(len(content))
        if math.prod(shape) * kind.value.itemsize != len(content):
            _refuse("it holds an array of another size than its content")
        if not content:
            if max(shape, default=0) > MOST_EMPTY:
                _refuse("it holds an array of endless rows without content")
            return np.empty(shape, kind.value, order)  # type: ignore[call-overload]
        flat = np.frombuffer(bytearray(content), kind.value)
        if kind.value.kind in "bU":
            _check_values(flat)
        return flat.reshape(shape, order=order)  # type: ignore[call-overload]

    def from_buffer(
        self, content: Any, kind: Any, shape: Any, order: Any, axes: Any = None
    ) -> np.ndarray:
        """As ``numpy.core.numeric._frombuffer``; ``axes`` since NumPy 2.3."""
        if order != "K":
            return self.array(content, kind, shape, "F" if order == "F" else "C")
        made = self.array(content, kind, shape, "C")
        return made if axes is None else made.transpose(axes)

    def scalar(self, kind: Any, content: Any) -> Any:
        text = content == b"" and type(kind) is _Type and kind.value.kind in "SU"
        return kind.value.type() if text else self.array(content, kind, (1,), "C")[0]

    def encode(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            _refuse(f"it encodes text as {brief(encoding)}")
        self._take(len(text))
        return text.encode("latin-1")

    def copy_bytes(self, *content: Any) -> bytes:
        return bytes(self.copy_bytearray(*content))

    def copy_bytearray(self, content: Any = b"", encoding: Any = "latin-1") -> bytearray:
        if type(content) is str:
            return bytearray(self.encode(content, encoding))
        if type(content) is not bytes:
            _refuse("it makes bytes of something else")
        self._take(len(content))
        return bytearray(content)

    def copy_set(self, content: Any) -> set[Any]:
        if type(content) is not list:
            _refuse("it makes a set of something else")
        self._take(len(content))
        return set(content)


def _check_values(flat: np.ndarray) -> None:
    """Refuse bytes that are no truth value, or no text."""
    if flat.dtype.kind == "b":
        wrong = flat.view(np.uint8).max() > 1
    else:
        codes = flat.view(np.dtype(np.uint32).newbyteorder(flat.dtype.byteorder))
        wrong = ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any()
    if wrong:
        _refuse(f"it holds an array of {flat.dtype.name} with other values")


class _Stand:
    """Placeholder on the unpickler's stack for an object that the file names."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # neither a key nor a member of a set

    def __setstate__(self, state: Any) -> None:
        _refuse("it changes what it names")


class _Name(_Stand):
    """A class that is only an argument."""

    __slots__ = ()


class _Maker(_Stand):
    """A function that the file may call."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


class _Type(_Stand):
    """The type of an array: kind and size at first, then the order of bytes."""

    __slots__ = ("value",)

    def __init__(self, code: Any, *_: Any):
        if type(code) is not str or not re.fullmatch(rf"[{KINDS}]\d{{1,9}}", code):
            _refuse(f"it holds an array of the type {brief(code)}, no numbers and no text")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        size = self.value.itemsize
        sizes = {"U": (size, 4, 8), "S": (size, 1, 0)}.get(self.value.kind, (-1, -1, 0))
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or tuple(rest) != (None, None, None, *sizes):
            _refuse("it makes up a type of an array")
        self.value = self.value.newbyteorder(order)


class _Array(_Stand):
    """An array, whose content comes as its state."""

    __slots__ = ("_budget", "value")

    def __init__(self, budget: _Budget):
        self._budget = budget
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        self.value = self._budget.array(content, kind, shape, "F" if fortran else "C")


_LEAVES = {type(None), bool, int, float, complex, str, bytes, bytearray, set, frozenset}
_LEAVES |= {np.dtype(code).type for code in (*"?bBhHiIlLqQefdgFDGSU",)} | {np.ndarray}


class _Places:
    """Puts arrays where they are stood in for, and counts values as often as they are referred to.

    A list that holds the one before it twice, and so on, is short in a file and endless for whoever
    walks through it.
    """

    def __init__(self, most: int):
        self._most = most
        # By identity: the container (which keeps its identity taken), what it became, its values
        # and its levels; None while it is walked through.
        self._done: dict[int, tuple[Any, Any, int, int] | None] = {}

    def fill(self, value: Any) -> tuple[Any, int, int]:
        """``value`` with its arrays, the number of values in it, and of levels."""
        kind = type(value)
        if kind in _LEAVES:
            return value, 1, 0
        if kind is _Array and value.value is not None:
            return value.value, 1, 0
        if kind not in (dict, list, tuple):
            _refuse(f"it holds a {kind.__name__.strip('_')} where there should be data")
        if id(value) not in self._done:
            self._done[id(value)] = None
            self._done[id(value)] = (value, *self._container(value))
        done = self._done[id(value)]
        if done is None:
            _refuse("it holds a container that holds itself")
        return done[1:]

    def _container(self, value: Any) -> tuple[Any, int, int]:
        keys = value if isinstance(value, dict) else range(len(value))
        filled, count, levels = [], 1, 0
        for item in value.values() if isinstance(value, dict) else value:
            one, more, below = (item, 1, 0) if type(item) in _LEAVES else self.fill(item)
            filled.append(one)
            count, levels = count + more, max(levels, below)
        if count > self._most or levels >= MOST_LEVELS:
            _refuse("it holds the same values over and over, or too many containers in one another")
        if isinstance(value, tuple):
            return tuple(filled), count, levels + 1
        for key, one in zip(keys, filled, strict=True):
            value[key] = one
        return value, count, levels + 1
