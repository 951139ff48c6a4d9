"""A fault at the n-th change of the files of this process: it is killed, or the disk is full.

A point is one open for writing, write, rename, link, sync, new directory or removal below a given
directory. `Faults.install` replaces the functions of `os`, `io` and safetensors that do these.
"""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

FULL = "full disk"
KINDS = ("SIGKILL", "SIGTERM", "SIGINT", FULL)
_NAMING = ("rename", "replace", "symlink")
_REMOVALS = ("unlink", "rmdir", "remove")
"""They free space, so a full disk does not stop them."""


class Faults:
    """Counts the points of this process, and makes the fault at one of them.

    Attributes:
        points: What was done at each point so far, such as `write out/config.json`.
    """

    def __init__(self, below: Path, at: int = 0, kind: str = "") -> None:
        """`at`: the number of the point, from 1; 0 makes no fault. `kind`: one of `KINDS`."""
        self.points: list[str] = []
        self._below, self._at, self._kind = str(below.resolve()), at, kind
        self._is_full = False

    def install(self) -> None:
        """Replace the functions; processes that are forked from this one meet no fault."""
        for name in ("rename", "replace", "symlink", "mkdir", "fsync", "ftruncate", *_REMOVALS):
            setattr(os, name, self._watched(name, getattr(os, name)))
        os.write = self._writing("write", os.write)
        os.pwrite = self._writing("pwrite", os.pwrite)
        self._open = io.open
        io.open = builtins.open = self._opened
        library: Any = safetensors.torch
        self._save = library.serialize_file
        library.serialize_file = self._saved
        os.register_at_fork(after_in_child=self._leave)

    def reach(self, what: str, where: Any, **named: Any) -> Callable[[], None]:
        """Count a point; what is to be called in place of the second half of what is done there."""
        path = _path(where, named.get("dir_fd"))
        if not path.startswith(self._below):
            return _nothing
        self.points.append(f"{what} {os.path.relpath(path, self._below)}")
        if len(self.points) != self._at:
            return self._no_space if self._is_full and what not in _REMOVALS else _nothing
        if self._kind == FULL:
            self._is_full = True
            return _nothing if what in _REMOVALS else self._no_space
        return lambda: os.kill(os.getpid(), getattr(signal, self._kind))

    def _leave(self) -> None:
        self._at, self._is_full = 0, False

    def _no_space(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def watched(where: Any, *more: Any, **named: Any) -> Any:
            # A rename and a link are named by what they make.
            self.reach(name, more[0] if name in _NAMING else where, **named)()
            return real(where, *more, **named)

        return watched

    def _writing(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        def writing(descriptor: int, data: Any, *more: Any) -> int:
            fault = self.reach(name, descriptor)
            if fault is not _nothing:
                real(descriptor, memoryview(data).cast("B")[: len(data) // 2], *more)
                fault()
            return real(descriptor, data, *more)

        return writing

    def _opened(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """As `open`; files that are written count their writes."""
        where = _path(file)
        if not set(mode) & set("wax+") or not where.startswith(self._below):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            self.reach("open", file)()
        raw = _File(self, where, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffer: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    def _saved(self, tensors: Any, filename: Any, metadata: Any = None) -> None:
        fault = self.reach("write", filename)
        self._save(tensors, filename, metadata=metadata)
        if fault is not _nothing:
            os.truncate(filename, Path(filename).stat().st_size // 2)
            try:
                fault()
            except OSError as error:
                raise safetensors.SafetensorError(f"I/O error: {error.strerror}") from None
            self._save(tensors, filename, metadata=metadata)


class _File(io.FileIO):
    """A file whose writes are points."""

    def __init__(self, faults: Faults, where: str, *given: Any) -> None:
        super().__init__(*given)
        self._faults, self._where = faults, where

    def write(self, data: Any) -> int:
        fault = self._faults.reach("write", self._where)
        if fault is not _nothing:
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            fault()
            return super().write(memoryview(data).cast("B")[len(data) // 2 :]) + len(data) // 2
        return super().write(data)


def _nothing() -> None:
    pass


def _path(where: Any, directory: int | None = None) -> str:
    """The absolute path of a path or of a descriptor."""
    if isinstance(where, int):
        try:
            return str(Path(f"/proc/self/fd/{where}").readlink())
        except OSError:
            return ""
    path = os.fsdecode(where)
    if directory is not None:
        path = os.path.join(_path(directory), path)  # noqa: PTH118 - as bytes may be given
    return os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path)  # noqa: PTH119, PTH120
