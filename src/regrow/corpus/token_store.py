"""Documents of tokens on disk, mapped into memory.

Two layouts are read, and the first is written:

- Megatron's (``.bin`` and ``.idx``, ``IndexedDataset`` of Megatron-LM, version 1): the tokens of
  all sequences in one line; beside it a header of 34 bytes, tokens of each sequence (int32), where
  each begins (int64, bytes), and with which sequence each document begins (int64, and the end).
- datatrove's (``.ds``, ``.ds.index``, ``.ds.metadata``): the tokens of all documents in one line,
  uint16 or uint32; where each document ends (uint64, tokens); the tokenizer's name, a bar, and the
  bytes of a token, then the number of tokens, a line each.

Opening reads a header and the ends of the index. The rest is paged in where it is read, and the
index is checked there.
"""

import hashlib
import json
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.files import read_json_object
from regrow.corpus.packing import Tokenizer

NAME = "tokens"
"""The files of a store that regrow writes: ``tokens.bin``, ``.idx`` and ``.json``."""

Tokens = NDArray[np.uint16] | NDArray[np.int32]
Offsets = NDArray[np.int64]

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, code of the token type, sequences, document boundaries."""
_CODES = {"uint16": 8, "int32": 4}
_AT_ONCE = 1 << 18
"""Index entries that are held at once."""
_PIECE, _PIECES = 1 << 15, 1 << 12
"""Tokens in a piece that is hashed, and pieces at most."""
_FIRST = 256
"""Documents that are looked at to see whether they end with a token."""


class _Index(Protocol):
    def __len__(self) -> int:
        """Documents."""

    def bounds(self, first: int, last: int) -> Offsets:
        """Where documents `first` to `last - 1` begin, and where the last ends, in tokens."""

    def starts_of(self, numbers: Offsets) -> Offsets:
        """Where each of these documents begins; of as many as there are, where the last ends."""

    def before(self, token: int) -> int:
        """How many documents begin before a token."""


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Documents of tokens, in order.

    Attributes:
        path: The file that holds the tokens.
        tokens: Of all documents in one line, uint16 or int32, [tokens]; mapped, read-only.
        index: Where documents begin.
        end: The token that ends each document; None where there is none, or none is known of.
        facts: What the writer noted beside it; empty for a store that regrow did not write.
    """

    path: Path
    tokens: Tokens
    index: _Index
    end: int | None
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Tokens:
        """The tokens of a document, its end among them: a view, [tokens]."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        first, last = self.bounds(number, number + 1).tolist()
        return self.tokens[first:last]

    @property
    def text_tokens(self) -> int:
        """In all documents without their ends."""
        return len(self.tokens) - (len(self) if self.end is not None else 0)

    def text(self, number: int) -> Tokens:
        """The tokens of a document without its end: a view, [tokens]."""
        document = self[number]
        return document if self.end is None else document[:-1]

    def bounds(self, first: int, last: int) -> Offsets:
        """Where documents `first` to `last - 1` begin, and where the last ends, in tokens.

        Raises UserError where the index contradicts itself.
        """
        found = self.index.bounds(first, last)
        if found[0] < 0 or found[-1] > len(self.tokens) or (np.diff(found) < 0).any():
            raise _corrupt(self.path, f"the index between documents {first} and {last} is not one")
        return found

    def starts_of(self, numbers: Offsets) -> Offsets:
        """Where each of these documents begins; of as many as there are, where the last ends.

        Of any shape. Nothing is checked; `bounds` does that.
        """
        return self.index.starts_of(numbers)

    def starts_between(self, first: int, last: int) -> Offsets:
        """Where documents begin from token `first` on and before token `last`, ascending.

        Raises UserError where the index contradicts itself.
        """
        low, high = self.index.before(first), self.index.before(last)
        found = self.bounds(low, max(low, high))[: max(0, high - low)]
        if len(found) and not first <= found[0] <= found[-1] < last:
            raise _corrupt(self.path, f"documents {low} to {high} are out of order")
        return found

    @cached_property
    def identity(self) -> str:
        """A hash of the tokens and of where documents begin and end.

        Taken from what the writer noted. Of a store that regrow did not write, the index is read
        once, and up to 256 MB of its tokens: of more, pieces that are spread evenly.
        """
        noted = self.facts.get("sha256")
        if noted is None:
            digest = hashlib.sha256()
            for first in range(0, len(self), _AT_ONCE):
                bounds = self.bounds(first, min(first + _AT_ONCE, len(self)))
                digest.update(bounds.astype("<i8").data)
            pieces = -(-len(self.tokens) // _PIECE)
            for number in range(0, pieces, -(-pieces // _PIECES) or 1):
                digest.update(self.tokens[number * _PIECE : (number + 1) * _PIECE].data)
            noted = digest.hexdigest()
        named = json.dumps([noted, self.tokens.dtype.name, self.end], sort_keys=True)
        return hashlib.sha256(named.encode()).hexdigest()


def is_store(path: Path) -> bool:
    """Whether a path names a token store, as `open_store` takes it, rather than text."""
    return path.is_dir() or path.suffix in (".bin", ".idx", ".ds") or _index_of(path).is_file()


def _index_of(prefix: Path) -> Path:
    return Path(f"{prefix}.idx")


def open_store(
    path: Path, *, tokenizer: Tokenizer | None = None, end: int | None = None
) -> TokenStore:
    """Open a store: a directory that regrow wrote, a Megatron prefix or file, or a ``.ds`` file.

    `tokenizer`: of the model that is to read it; a store that was made with another is refused:
    where it says by which it was made, or where it holds larger ids. One that was given tokens
    since, such as sentinels, is no other. `end`: the token that ends
    each document. A store that does not say is taken to end them with the tokenizer's ``eos`` where
    its first documents do.

    Raises UserError where there is no store, where it is not complete, or where it is refused.
    """
    if path.name.endswith(".ds"):
        store = _open_datatrove(path, end)
    else:
        prefix = path / NAME if path.is_dir() else path
        stem = prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix
        store = _open_megatron(Path(f"{stem}.bin"), _index_of(stem), Path(f"{stem}.json"), end)
    if tokenizer is not None:
        _check_tokenizer(path, store, tokenizer)
        if end is None and "end" not in store.facts and _ends_with(store, tokenizer.eos_token_id):
            store = replace(store, end=tokenizer.eos_token_id)
    return store


def _check_tokenizer(path: Path, store: TokenStore, tokenizer: Tokenizer) -> None:
    made_with = store.facts.get("tokenizer_sha256")
    seen = store.tokens[:_AT_ONCE]
    largest = int(seen.max()) if made_with is None and len(seen) else 0
    known = tokenizer_sha256(tokenizer, store.facts.get("ids"))
    if made_with not in (None, known) or largest > last_id(tokenizer):
        named = tokenizer.name_or_path or "the one given"
        raise UserError(
            f"{path}: made with another tokenizer than {named}; "
            "tokenise the text again with the model's own"
        )


def _ends_with(store: TokenStore, end: int | None) -> bool:
    """Whether the first documents all end with this token."""
    ends = store.bounds(0, min(len(store), _FIRST))
    if len(ends) < 2 or (np.diff(ends) == 0).any():
        return False
    return bool((store.tokens[ends[1:] - 1] == end).all())


_PROBE = (
    "Ab 1234,56.7é ﬁ\t日本語\n\n  x__Y'll <s></s> 🙂 İ\u0301 antidisestablishment def f(x):\r\n"
)


def tokenizer_sha256(tokenizer: Tokenizer, ids: int | None = None) -> str:
    """A hash of a tokenizer's vocabulary and of how it splits a line of difficult text.

    It does not depend on how, or by which version of the library, its files were written. `ids`: of
    the vocabulary, the first so many, for a tokenizer that was given special tokens since.
    """
    vocabulary = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if ids is None or number < ids
    )
    probe = tokenizer(_PROBE, add_special_tokens=False, verbose=False)["input_ids"]
    return hashlib.sha256(json.dumps([vocabulary, list(probe)]).encode()).hexdigest()


def token_dtype(tokenizer: Tokenizer) -> str:
    """uint16 where all ids fit, else int32."""
    return "uint16" if last_id(tokenizer) < 1 << 16 else "int32"


def last_id(tokenizer: Tokenizer) -> int:
    """The largest id that a tokenizer can give."""
    return int(max(tokenizer.get_vocab().values()))


# Megatron


@dataclass(frozen=True, eq=False)
class _MegatronIndex:
    path: Path
    lengths: NDArray[np.int32]
    pointers: Offsets
    documents: Offsets
    item: int

    def __len__(self) -> int:
        return len(self.documents) - 1

    def bounds(self, first: int, last: int) -> Offsets:
        sequences = np.array(self.documents[first : last + 1])
        begin, end = int(sequences[0]), int(sequences[-1])
        if not 0 <= begin <= end <= len(self.lengths) or (np.diff(sequences) < 0).any():
            raise _corrupt(self.path, f"documents {first} to {last} name sequences out of order")
        lengths = self.lengths[begin:end].astype(np.int64)
        start = self._start(begin)
        starts = start + np.concatenate([[0], np.cumsum(lengths)])
        if (lengths < 0).any() or (self.pointers[begin:end] != starts[:-1] * self.item).any():
            raise _corrupt(self.path, f"lengths and places of documents {first} to {last} disagree")
        return starts[sequences - begin]

    def starts_of(self, numbers: Offsets) -> Offsets:
        sequences = self.documents[numbers]
        total = self._start(len(self.lengths))
        if len(self.pointers) == 0:
            return np.zeros_like(sequences)
        places = self.pointers[np.minimum(sequences, len(self.pointers) - 1)] // self.item
        return np.where(sequences < len(self.pointers), places, total)

    def before(self, token: int) -> int:
        # Not numpy's search: of numbers that lie askew in the file it makes a copy first.
        sequences = bisect_left(self.pointers, token * self.item)
        return bisect_left(self.documents, sequences, hi=len(self))

    def _start(self, sequence: int) -> int:
        if sequence == 0:
            return 0
        return int(self.pointers[sequence - 1]) // self.item + int(self.lengths[sequence - 1])


def _open_megatron(tokens: Path, index: Path, notes: Path, end: int | None) -> TokenStore:
    raw = _map(index)
    try:
        magic, version, code, sequences, boundaries = _HEADER.unpack_from(raw)
    except struct.error:
        raise _corrupt(index, "shorter than its header") from None
    if magic != _MAGIC:
        raise UserError(f"{index}: not the index of a token store; name a Megatron .bin or .idx")
    dtype = next((name for name, number in _CODES.items() if number == code), None)
    if version != _VERSION or dtype is None:
        raise UserError(
            f"{index}: version {version} with tokens of code {code}; "
            f"version {_VERSION} with code 4 (int32) or 8 (uint16) is read"
        )
    if len(raw) != _HEADER.size + 12 * sequences + 8 * boundaries or boundaries == 0:
        raise _corrupt(index, f"{len(raw):,} bytes do not hold {sequences:,} sequences of text")
    places = _HEADER.size + 4 * sequences
    found = _MegatronIndex(
        index,
        np.frombuffer(raw, "<i4", sequences, _HEADER.size),
        np.frombuffer(raw, "<i8", sequences, places),
        np.frombuffer(raw, "<i8", boundaries, places + 8 * sequences),
        np.dtype(dtype).itemsize,
    )
    line = _tokens(tokens, dtype)
    if found.documents[0] != 0 or found.documents[-1] != sequences:
        raise _corrupt(index, "its documents do not hold its sequences")
    if (expected := found._start(sequences)) != len(line):
        raise _corrupt(tokens, f"{len(line):,} tokens, where the index has {expected:,}")
    facts = read_json_object(notes) if notes.is_file() else {}
    return TokenStore(tokens, line, found, facts.get("end", end), facts)


def write_index(out: BinaryIO, lengths: Path, dtype: str) -> None:
    """Write the ``.idx`` of documents of one sequence each.

    `lengths`: a file with the tokens of each document, int32. A few entries are held at a time.
    """
    documents = lengths.stat().st_size // 4
    out.write(_HEADER.pack(_MAGIC, _VERSION, _CODES[dtype], documents, documents + 1))
    for part in _parts(lengths):
        out.write(part.data)
    place = 0
    for part in _parts(lengths):
        ends = place + np.cumsum(part, dtype=np.int64)
        out.write(((ends - part) * np.dtype(dtype).itemsize).astype("<i8").data)
        place = int(ends[-1])
    for first in range(0, documents + 1, _AT_ONCE):
        out.write(np.arange(first, min(first + _AT_ONCE, documents + 1), dtype="<i8").data)


def _parts(lengths: Path) -> Iterator[NDArray[np.int32]]:
    with lengths.open("rb") as file:
        while data := file.read(4 * _AT_ONCE):
            yield np.frombuffer(data, "<i4")


# datatrove


@dataclass(frozen=True, eq=False)
class _DatatroveIndex:
    ends: Offsets

    def __len__(self) -> int:
        return len(self.ends)

    def bounds(self, first: int, last: int) -> Offsets:
        if first == 0:
            return np.concatenate([np.zeros(1, np.int64), self.ends[:last]])
        return np.array(self.ends[first - 1 : last])

    def starts_of(self, numbers: Offsets) -> Offsets:
        if len(self.ends) == 0:
            return np.zeros_like(numbers)
        return np.where(numbers > 0, self.ends[numbers - 1], 0)

    def before(self, token: int) -> int:
        if token <= 0 or len(self.ends) == 0:
            return 0
        return 1 + bisect_left(self.ends, token, hi=len(self) - 1)


def _open_datatrove(path: Path, end: int | None) -> TokenStore:
    index, notes = Path(f"{path}.index"), Path(f"{path}.metadata")
    raw = _map(index)
    if len(raw) % 8:
        raise _corrupt(index, f"{len(raw):,} bytes are no whole number of entries")
    ends: Offsets = np.frombuffer(raw, "<i8")
    total = int(ends[-1]) if len(ends) else 0
    if not notes.is_file():
        raise UserError(f"{notes}: no such file; it says how many bytes a token takes")
    lines = notes.read_text(encoding="utf-8", errors="replace").splitlines()
    # Before tokens could take four bytes, the name stood alone.
    size = lines[0].rpartition("|")[2] if lines and "|" in lines[0] else "2"
    if size not in ("2", "4") or len(lines) < 2 or lines[1] != str(total):
        raise _corrupt(notes, f"it should say 'tokenizer|2' or '|4', then {total}, as the index")
    line = _tokens(path, "uint16" if size == "2" else "int32")
    if len(line) != total:
        raise _corrupt(path, f"{len(line):,} tokens, where the index has {total:,}")
    return TokenStore(path, line, _DatatroveIndex(ends), end, {})


# Files


def _tokens(path: Path, dtype: str) -> Tokens:
    raw = _map(path)
    kind = np.dtype(dtype).newbyteorder("<")
    if len(raw) % kind.itemsize:
        raise _corrupt(path, f"{len(raw):,} bytes are no whole number of {dtype} tokens")
    if isinstance(raw, mmap.mmap):
        # Windows lie anywhere; reading ahead would read a hundred times what they hold.
        raw.madvise(mmap.MADV_RANDOM)
    found: Tokens = np.frombuffer(raw, kind)
    return found


def _map(path: Path) -> mmap.mmap | bytes:
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


def _corrupt(path: Path, what: str) -> UserError:
    return UserError(f"{path}: not a complete token store: {what}; write it again")
