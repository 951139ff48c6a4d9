"""A fault at the n-th change of the files of this process: it is killed, or the disk is full.

A point is one open for writing, write, rename, link, sync, new directory or removal below a given
directory. `Faults.install` replaces the functions of `os`, `io` and safetensors that do these.
"""

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors.torch

FULL = "full disk"
KINDS = ("SIGKILL", "SIGTERM", "SIGINT", FULL)
MOMENT = "SIGINT at a call"
"""Not at a point: SIGINT at the n-th call of any function."""
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

    def reach(self, what: str, where: Any, directory: int | None = None) -> str | None:
        """Count a point; the kind of fault that there is to be, if any."""
        path = _path(where, directory)
        if not path.startswith(self._below):
            return None
        self.points.append(f"{what} {os.path.relpath(path, self._below)}")
        if len(self.points) == self._at:
            self._is_full = self._kind == FULL
            if not self._is_full:
                return self._kind
        return FULL if self._is_full and what not in _REMOVALS else None

    def write(self, where: Any, data: Any, real: Callable[[Any], int], what: str = "write") -> int:
        """Write as `real` does. At a fault, half of the data is written first."""
        was_full, fault = self._is_full, self.reach(what, where)
        half = memoryview(data).cast("B")[: len(data) // 2]
        if fault is None:
            return real(data)
        if fault == "SIGINT":  # Python raises KeyboardInterrupt around a write, never inside it
            _make(fault)
            return real(data)
        if fault == FULL and (was_full or not half):
            _make(fault)
        written = real(half)
        if fault != FULL:  # the next write finds the disk full
            _make(fault)
        return written

    def _leave(self) -> None:
        self._at, self._is_full = 0, False

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def watched(where: Any, *more: Any, **named: Any) -> Any:
            # A rename and a link are named by what they make.
            target = more[0] if name in _NAMING else where
            _make(self.reach(name, target, named.get("dir_fd")))
            return real(where, *more, **named)

        return watched

    def _writing(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        def writing(descriptor: int, data: Any, *more: Any) -> int:
            return self.write(descriptor, data, lambda part: real(descriptor, part, *more), name)

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
            _make(self.reach("open", file))
        raw = _File(self, where, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffer: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    def _saved(self, tensors: Any, filename: Any, metadata: Any = None) -> None:
        fault = self.reach("write", filename)
        self._save(tensors, filename, metadata=metadata)
        if fault is None:
            return
        os.truncate(filename, Path(filename).stat().st_size // 2)
        try:
            _make(fault)
        except OSError as error:
            raise safetensors.SafetensorError(f"I/O error: {error.strerror}") from None
        self._save(tensors, filename, metadata=metadata)


class _File(io.FileIO):
    """A file whose writes are points."""

    def __init__(self, faults: Faults, where: str, *given: Any) -> None:
        super().__init__(*given)
        self._faults, self._where = faults, where

    def write(self, data: Any) -> int:
        return self._faults.write(self._where, data, super().write)


class Calls:
    """Counts the calls of functions in this thread, and interrupts the process at one of them."""

    def __init__(self, at: int) -> None:
        """`at`: the number of the call, from 1; 0 interrupts nothing."""
        self.count, self._at = 0, at

    def watch(self) -> None:
        """Begin to count."""
        sys.setprofile(self._called)

    def _called(self, _: FrameType, event: str, __: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1
            if self.count == self._at:
                os.kill(os.getpid(), signal.SIGINT)


def _make(fault: str | None) -> None:
    """Send this process a signal, or raise the error of a full disk; nothing for None."""
    if fault == FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if fault is not None:
        os.kill(os.getpid(), getattr(signal, fault))


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
