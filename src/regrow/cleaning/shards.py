"""The files of a corpus: which documents each holds, and how it is written."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.finisher import UNIQUE
from regrow.cleaning.mixture import Mixture
from regrow.cleaning.work_files import once, read_array

SHARD_BYTES = 1_000_000_000
_CHUNK = 1 << 12
_LEVEL = 6


class Stretch(NamedTuple):
    """Consecutive documents of a shard.

    Attributes:
        round: Documents that are taken more often than this number are written.
        first: The number of the first document.
        last: The number after the last.
        offset: Where the first begins in the file of all documents.
    """

    round: int
    first: int
    last: int
    offset: int


@dataclass(frozen=True)
class Shard:
    """A file of the corpus.

    Attributes:
        path: The file.
        stretches: Its documents, in order.
        documents: The file of all documents, a line of JSON each.
        records: The file of what is known of them (`UNIQUE`).
        mixture: How often each is taken.
    """

    path: Path
    stretches: tuple[Stretch, ...]
    documents: Path
    records: Path
    mixture: Mixture


def plan_stretches(
    records: NDArray[np.void], mixture: Mixture, count: int | None
) -> list[tuple[Stretch, ...]]:
    """Divide the documents into so many shards of about equal size; by default of about 1 GB.

    There are fewer shards if some would be empty, since there are few documents. First come all
    documents, in their order; then those that are taken twice, once more; and so on.
    """
    total = sum(
        int((part["bytes"].astype(np.int64) * mixture.copies(part)).sum())
        for part in (records[at : at + _CHUNK] for at in range(0, len(records), _CHUNK))
    )
    count = count or max(1, -(-total // SHARD_BYTES))
    shards: list[list[Stretch]] = [[] for _ in range(count)]
    written = 0
    for number in range(mixture.rounds):
        offset = 0
        for first in range(0, len(records), _CHUNK):
            part = records[first : first + _CHUNK]
            sizes = part["bytes"].astype(np.int64)
            taken = sizes * (mixture.copies(part) > number)
            starts = written + np.cumsum(taken) - taken
            owners = np.minimum(starts * count // max(1, total), count - 1)
            begins = np.flatnonzero(np.diff(owners, prepend=-1))
            ends = [*begins[1:].tolist(), len(part)]
            offsets = offset + np.cumsum(sizes) - sizes
            for begin, end in zip(begins.tolist(), ends, strict=True):
                if taken[begin:end].any():
                    shards[int(owners[begin])].append(
                        Stretch(number, first + begin, first + end, int(offsets[begin]))
                    )
            written += int(taken.sum())
            offset += int(sizes.sum())
    return [tuple(stretches) for stretches in shards if stretches]


def shard_name(number: int, compress: str | None) -> str:
    """The name of the file of a shard."""
    return f"documents-{number:05}.jsonl" + (f".{compress}" if compress else "")


def write_shard(shard: Shard) -> Path:
    """Write the file of a shard, unless it is there."""
    return once(shard.path, lambda path: _write(shard, path))


def _write(shard: Shard, path: Path) -> None:
    records = read_array(shard.records, UNIQUE)
    with shard.documents.open("rb") as source, _compressed(path, shard.path.suffix) as target:
        for number, first, last, offset in shard.stretches:
            source.seek(offset)
            for begin in range(first, last, _CHUNK):
                part = records[begin : min(begin + _CHUNK, last)]
                taken = shard.mixture.copies(part) > number
                for size, is_taken in zip(part["bytes"].tolist(), taken.tolist(), strict=True):
                    line = source.read(size)
                    if is_taken:
                        target.write(line)


@contextmanager
def _compressed(path: Path, suffix: str) -> Iterator[BinaryIO]:
    """Context manager: an open file; the same content gives the same bytes."""
    with path.open("wb") as file:
        if suffix == ".gz":
            # Without name and time.
            with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        elif suffix == ".zst":
            import zstandard

            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield file
