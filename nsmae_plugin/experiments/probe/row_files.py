"""Arrays of one row a frame, written batch by batch, and continued after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.reading import read_json

RECORD = "rows.json"


class RowFiles:
    """The ``.npy`` files of a folder, and a record of the rows that they hold.

    Attributes:
        total: rows when the arrays are complete.
        done: rows that are safely written; what a file holds beyond them does not count.
        arrays: name -> data type and shape of a row.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total, self.done = folder, total, 0
        self.arrays: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._open: dict[str, BinaryIO] = {}
        files.make_folder(folder)
        path = folder / RECORD
        if path.is_file():
            content = read_json(path, "the record", f"remove {folder}")
            try:
                if content["total"] == total:
                    self.done = int(content["done"])
                    shapes = content["arrays"].items()
                    self.arrays = {name: (kind, tuple(shape)) for name, (kind, shape) in shapes}
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path} is not a record of an extraction: remove {folder}"
                ) from error

    @property
    def complete(self) -> bool:
        return self.done == self.total

    def read(self, name: str) -> np.ndarray:
        """(total, ...) a complete array, mapped into memory; writing into it leaves the file alone.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.folder / f"{name}.npy"
        kind, shape = self.arrays[name]
        try:
            rows = np.load(path, mmap_mode="c")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path} ({brief(error)}): remove {self.folder}") from error
        if rows.shape != (self.total, *shape) or rows.dtype != kind:
            raise DataError(f"{path} does not fit its record: remove {self.folder}")
        return rows

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Write the next rows of all arrays, and count them when they are on the disk.

        Raises:
            DataError: a file has lost rows of before.
            OutputError: they cannot be written.
        """
        if not self.done:
            self.arrays = {name: (part.dtype.str, part.shape[1:]) for name, part in rows.items()}
        with files.output_errors(self.folder):
            for name, part in rows.items():
                file = self._file(name)
                file.write(np.ascontiguousarray(part).data)
                file.flush()
                os.fsync(file.fileno())
        self.done += len(next(iter(rows.values())))
        content = {"total": self.total, "done": self.done, "arrays": self.arrays}
        files.write_text(self.folder / RECORD, json.dumps(content, indent=1))

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _file(self, name: str) -> BinaryIO:
        """The open file of an array, behind its last safe row."""
        if name not in self._open:
            kind, shape = self.arrays[name]
            file = open(self.folder / f"{name}.npy", "r+b" if self.done else "w+b")  # noqa: SIM115
            self._open[name] = file
            header = {"descr": kind, "fortran_order": False, "shape": (self.total, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            end = file.tell() + self.done * np.dtype((kind, shape)).itemsize
            if file.seek(0, os.SEEK_END) < end:
                raise DataError(
                    f"{file.name} is shorter than its record says: remove {self.folder}"
                )
            file.truncate(end)
            file.seek(end)
        return self._open[name]
