"""The token store of Megatron-LM: ``.bin`` and ``.idx`` (its ``IndexedDataset``, version 1).

The ``.bin`` holds the tokens of all sequences, one after the other. The ``.idx`` holds a header of
34 bytes, the number of tokens in each sequence (int32), where each sequence begins (int64, bytes),
and with which sequence each document begins (int64; one more entry marks the end).
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.files import read_json_object
from regrow.corpus.mapped_files import (
    ENTRIES_AT_ONCE,
    Offsets,
    StoreFiles,
    corrupt,
    map_file,
    map_tokens,
)

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, code of the token type, sequences, document boundaries."""
_CODES = {"uint16": 8, "int32": 4}


@dataclass(frozen=True, eq=False)
class MegatronIndex:
    """Where documents begin, in a ``.idx``; the attributes are its arrays, mapped.

    Attributes:
        path: The file, for messages.
        lengths: Tokens in each sequence, [sequences].
        pointers: Where each sequence begins, in bytes, [sequences].
        documents: The first sequence of each document, and the number of sequences,
            [documents + 1].
        token_bytes: Bytes of a token.
    """

    path: Path
    lengths: NDArray[np.int32]
    pointers: Offsets
    documents: Offsets
    token_bytes: int

    def __len__(self) -> int:
        return len(self.documents) - 1

    def bounds(self, first: int, last: int) -> Offsets:
        sequences = np.array(self.documents[first : last + 1])
        begin, end = int(sequences[0]), int(sequences[-1])
        if not 0 <= begin <= end <= len(self.lengths) or (np.diff(sequences) < 0).any():
            raise corrupt(self.path, f"documents {first} to {last} name sequences out of order")
        lengths = self.lengths[begin:end].astype(np.int64)
        start = self.start_of_sequence(begin)
        starts = start + np.concatenate([[0], np.cumsum(lengths)])
        if (lengths < 0).any() or (
            self.pointers[begin:end] != starts[:-1] * self.token_bytes
        ).any():
            raise corrupt(self.path, f"lengths and places of documents {first} to {last} disagree")
        return starts[sequences - begin]

    def starts_of(self, numbers: Offsets) -> Offsets:
        sequences = self.documents[numbers]
        total = self.start_of_sequence(len(self.lengths))
        if len(self.pointers) == 0:
            return np.zeros_like(sequences)
        starts = self.pointers[np.minimum(sequences, len(self.pointers) - 1)] // self.token_bytes
        return np.where(sequences < len(self.pointers), starts, total)

    def before(self, token: int) -> int:
        # numpy's search would copy the arrays first, as they are not aligned in the file.
        sequences = bisect_left(self.pointers, token * self.token_bytes)
        return bisect_left(self.documents, sequences, hi=len(self))

    def start_of_sequence(self, sequence: int) -> int:
        """Where a sequence begins, in tokens; past the last one, where that ends."""
        if sequence == 0:
            return 0
        before = sequence - 1
        return int(self.pointers[before]) // self.token_bytes + int(self.lengths[before])


def open_megatron(prefix: Path) -> StoreFiles:
    """Open ``prefix.bin`` and ``prefix.idx``, with the facts in ``prefix.json`` if it is there.

    Raises UserError if there is no such store, or it is not complete.
    """
    tokens, index, notes = (Path(f"{prefix}.{suffix}") for suffix in ("bin", "idx", "json"))
    raw = map_file(index)
    try:
        magic, version, code, sequences, boundaries = _HEADER.unpack_from(raw)
    except struct.error:
        raise corrupt(index, "shorter than its header") from None
    if magic != _MAGIC:
        raise UserError(f"{index}: not the index of a token store; name a Megatron .bin or .idx")
    dtype = next((name for name, number in _CODES.items() if number == code), None)
    if version != _VERSION or dtype is None:
        raise UserError(
            f"{index}: version {version} with tokens of code {code}; "
            f"version {_VERSION} with code 4 (int32) or 8 (uint16) is read"
        )
    if len(raw) != _HEADER.size + 12 * sequences + 8 * boundaries or boundaries == 0:
        raise corrupt(index, f"{len(raw):,} bytes do not hold {sequences:,} sequences of text")
    pointers = _HEADER.size + 4 * sequences
    found = MegatronIndex(
        index,
        np.frombuffer(raw, "<i4", sequences, _HEADER.size),
        np.frombuffer(raw, "<i8", sequences, pointers),
        np.frombuffer(raw, "<i8", boundaries, pointers + 8 * sequences),
        np.dtype(dtype).itemsize,
    )
    mapped = map_tokens(tokens, dtype)
    if found.documents[0] != 0 or found.documents[-1] != sequences:
        raise corrupt(index, "its documents do not hold its sequences")
    if (expected := found.start_of_sequence(sequences)) != len(mapped):
        raise corrupt(tokens, f"{len(mapped):,} tokens, where the index has {expected:,}")
    return StoreFiles(tokens, mapped, found, read_json_object(notes) if notes.is_file() else {})


def write_index(out: BinaryIO, lengths: Path, dtype: str) -> None:
    """Write the ``.idx`` of documents of one sequence each.

    `lengths`: a file with the number of tokens of each document, int32. It is read in parts, so
    memory does not grow with it.
    """
    documents = lengths.stat().st_size // 4
    out.write(_HEADER.pack(_MAGIC, _VERSION, _CODES[dtype], documents, documents + 1))
    for part in _read_lengths(lengths):
        out.write(part.data)
    start = 0
    for part in _read_lengths(lengths):
        ends = start + np.cumsum(part, dtype=np.int64)
        out.write(((ends - part) * np.dtype(dtype).itemsize).astype("<i8").data)
        start = int(ends[-1])
    for first in range(0, documents + 1, ENTRIES_AT_ONCE):
        last = min(first + ENTRIES_AT_ONCE, documents + 1)
        out.write(np.arange(first, last, dtype="<i8").data)


def _read_lengths(path: Path) -> Iterator[NDArray[np.int32]]:
    with path.open("rb") as file:
        while data := file.read(4 * ENTRIES_AT_ONCE):
            yield np.frombuffer(data, "<i4")
