"""Sort more pairs of numbers than fit into memory, by keys that may be very unequal.

Pairs are written to 256 files by the first byte of their key. A file that is too large for the
memory is split again by the next byte. A file whose keys are all equal needs no sorting, since
pairs stay in the order in which they were added.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.word_hashes import Hashes
from regrow.common.files import remove

MEMORY_PAIRS = 1 << 22
"""Pairs that are sorted in memory at once: 64 MB of them, and some copies."""
_FILES = 256
_PAIR = np.dtype([("key", "<u8"), ("value", "<u8")])
_Pairs = NDArray[np.void]


class Sorted(NamedTuple):
    """Consecutive pairs in the order of their keys; equal keys in the order they were added.

    Attributes:
        keys: The keys.
        values: The values.
        first: For each pair, the value of the first pair with its key.
        before: For each pair, the value of the pair before it if that has the same key, else its
            own value.
    """

    keys: Hashes
    values: Hashes
    first: Hashes
    before: Hashes


class SpilledPairs:
    """Pairs on disk, in a directory of their own. Context manager: it is removed at the end."""

    def __init__(self, directory: Path, bits: int = 64, memory: int = MEMORY_PAIRS) -> None:
        """`bits`: keys have at most so many. `memory`: pairs that are held in memory."""
        remove(directory)
        directory.mkdir()
        self._directory, self._memory = directory, memory
        self._shift = max(0, bits - 8)
        self._held: list[_Pairs] = []
        self._count = 0

    def __enter__(self) -> "SpilledPairs":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        remove(self._directory)

    def add(self, keys: Hashes, values: Hashes) -> None:
        """Add pairs; keys and values have one dimension."""
        pairs = np.empty(len(keys), _PAIR)
        pairs["key"], pairs["value"] = keys, values
        self._held.append(pairs)
        self._count += len(pairs)
        if self._count >= self._memory:
            self._spill()

    def sorted(self) -> Iterator[Sorted]:
        """All pairs, in pieces that fit into memory."""
        last: tuple[np.uint64, np.uint64, np.uint64] | None = None
        for pairs in self._pieces():
            keys, values = pairs["key"].copy(), pairs["value"].copy()
            begins = np.ones(len(keys), np.bool_)
            begins[1:] = keys[1:] != keys[:-1]
            starts = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
            first = values[starts]
            before = values.copy()
            before[1:][~begins[1:]] = values[:-1][~begins[1:]]
            if last is not None and last[0] == keys[0]:
                first[starts == 0] = last[1]
                before[0] = last[2]
            last = keys[-1], first[-1], values[-1]
            yield Sorted(keys, values, first, before)

    def _pieces(self) -> Iterator[_Pairs]:
        files = [self._path(number) for number in range(_FILES)]
        if not any(path.exists() for path in files):
            if self._count:
                pairs = np.concatenate(self._held)
                yield pairs[np.argsort(pairs["key"], kind="stable")]
            return
        self._spill()
        for path in files:
            if path.exists():
                yield from self._sort_file(path, self._shift)

    def _sort_file(self, path: Path, shift: int) -> Iterator[_Pairs]:
        """The pairs of a file, which share all bits of the key from `shift` on."""
        count = path.stat().st_size // _PAIR.itemsize
        if count <= self._memory:
            pairs = np.fromfile(path, _PAIR)
            yield pairs[np.argsort(pairs["key"], kind="stable")]
        elif shift == 0:
            with path.open("rb") as file:
                yield from _read(file, self._memory)
        else:
            below = max(0, shift - 8)
            parts = [path.with_name(f"{path.name}-{number}") for number in range(_FILES)]
            with path.open("rb") as file:
                for pairs in _read(file, self._memory):
                    _write(pairs, below, parts)
            path.unlink()
            for part in parts:
                if part.exists():
                    yield from self._sort_file(part, below)
        path.unlink(missing_ok=True)

    def _spill(self) -> None:
        if self._held:
            files = [self._path(number) for number in range(_FILES)]
            _write(np.concatenate(self._held), self._shift, files)
        self._held, self._count = [], 0

    def _path(self, number: int) -> Path:
        return self._directory / str(number)


def _read(file: BinaryIO, count: int) -> Iterator[_Pairs]:
    while len(pairs := np.fromfile(file, _PAIR, count)):
        yield pairs


def _write(pairs: _Pairs, shift: int, files: list[Path]) -> None:
    """Append pairs to the files, by the byte of the key from `shift` on."""
    places = ((pairs["key"] >> np.uint64(shift)) & np.uint64(_FILES - 1)).astype(np.uint8)
    order = np.argsort(places, kind="stable")
    pairs = pairs[order]
    ends = np.cumsum(np.bincount(places, minlength=_FILES))
    for number in np.unique(places).tolist():
        begin = int(ends[number - 1]) if number else 0
        with files[number].open("ab") as file:
            file.write(pairs[begin : int(ends[number])].data)
