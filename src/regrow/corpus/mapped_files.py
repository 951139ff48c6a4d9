"""The files of a token store, mapped into memory, and the index that every format has."""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError

Tokens = NDArray[np.uint16] | NDArray[np.int32]
Offsets = NDArray[np.int64]

ENTRIES_AT_ONCE = 1 << 18
"""Index entries that are held in memory at once."""


class DocumentIndex(Protocol):
    """Where each document begins and ends among the tokens of a store."""

    def __len__(self) -> int:
        """Documents."""

    def bounds(self, first: int, last: int) -> Offsets:
        """Where documents `first` to `last - 1` begin, and where the last one ends, in tokens."""

    def starts_of(self, numbers: Offsets) -> Offsets:
        """Where each of these documents begins; past the last one, where that ends."""

    def before(self, token: int) -> int:
        """How many documents begin before a token."""


@dataclass(frozen=True, eq=False)
class StoreFiles:
    """What the reader of a format finds in the files of a store.

    Attributes:
        path: The file that holds the tokens.
        tokens: Of all documents, one after the other, [tokens].
        index: Where documents begin.
        facts: What the writer noted beside the tokens; empty if regrow did not write the store.
    """

    path: Path
    tokens: Tokens
    index: DocumentIndex
    facts: dict[str, Any]


def map_file(path: Path) -> mmap.mmap | bytes:
    """The bytes of a file, read-only. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:  # an empty file cannot be mapped
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror or error}; "
            "name a directory that regrow wrote, a Megatron .bin, or a datatrove .ds"
        ) from None


def map_tokens(path: Path, dtype: str) -> Tokens:
    """The tokens of a file, read-only. Raises UserError if its size does not fit the type."""
    raw = map_file(path)
    kind = np.dtype(dtype).newbyteorder("<")
    if len(raw) % kind.itemsize:
        raise corrupt(path, f"{len(raw):,} bytes are no whole number of {dtype} tokens")
    if isinstance(raw, mmap.mmap):
        # Samples are read in random order: reading ahead would read a hundred times too much.
        raw.madvise(mmap.MADV_RANDOM)
    found: Tokens = np.frombuffer(raw, kind)
    return found


def corrupt(path: Path, what: str) -> UserError:
    """The error to raise if the files of a store do not fit together."""
    return UserError(f"{path}: not a complete token store: {what}; write it again")
