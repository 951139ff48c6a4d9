"""Files that only grow, written by work that can be killed at any moment and then goes on.

A checkpoint says how long each file is. Who goes on cuts the files to that, so a checkpoint and its
files always fit together.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.files import read_json_object, write_atomically
from regrow.common.publishing import sync_descriptor

_ZEROS = 1 << 20


class GrowingFiles:
    """Files that are appended to, and a checkpoint. Context manager.

    Attributes:
        facts: What the last checkpoint said beside the lengths; empty if there is none.
    """

    def __init__(self, directory: Path, names: Sequence[str], checkpoint: str) -> None:
        """Open the files as the last checkpoint left them.

        Raises UserError if a file is shorter than that.
        """
        directory.mkdir(exist_ok=True)
        self._checkpoint = directory / checkpoint
        self.facts: dict[str, Any] = {}
        if self._checkpoint.is_file():
            self.facts = read_json_object(self._checkpoint)
        lengths: Mapping[str, int] = self.facts.get("lengths", {})
        self._files: dict[str, BinaryIO] = {}
        for name in names:
            path = directory / name
            path.touch()
            length = lengths.get(name, 0)
            if path.stat().st_size < length:
                raise UserError(
                    f"{path}: shorter than was noted; delete {directory.parent} to begin anew"
                )
            os.truncate(path, length)
            self._files[name] = path.open("ab")

    def __enter__(self) -> "GrowingFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, name: str, data: bytes | memoryview) -> None:
        """Append to a file."""
        if len(data):
            self._files[name].write(data)

    def save(self, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint, once the files are on the disk."""
        for file in self._files.values():
            file.flush()
            sync_descriptor(file.fileno())
        lengths = {name: file.tell() for name, file in self._files.items()}
        data = json.dumps({**facts, "lengths": lengths}, ensure_ascii=False).encode()
        write_atomically(self._checkpoint, data)


def new_array(path: Path, dtype: type[np.generic], count: int) -> NDArray[Any]:
    """A new array of zeros, as a file that can be changed; an empty array is none.

    The file is written first: a full disk is an error here, and would kill the process later.
    """
    size = count * np.dtype(dtype).itemsize
    with path.open("wb") as file:
        for start in range(0, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - start)))
    return np.memmap(path, dtype, "r+") if count else np.empty(0, dtype)


def read_array(path: Path, dtype: "np.dtype[Any] | type[np.generic]") -> NDArray[Any]:
    """The array in a file, mapped into memory."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r")


def flush(array: NDArray[Any]) -> None:
    """Write an array of `new_array` to its file."""
    if isinstance(array, np.memmap):
        array.flush()


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file at `path`; if it is not there, `make` writes it at another path first."""
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.unlink(missing_ok=True)
        make(unfinished)
        handle = os.open(unfinished, os.O_RDONLY)
        try:
            sync_descriptor(handle)
        finally:
            os.close(handle)
        unfinished.replace(path)
    return path
