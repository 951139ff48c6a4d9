"""Documents of tokens on disk, mapped into memory.

Stores of Megatron-LM and of datatrove are read; regrow writes Megatron's format. Opening a store
reads its header and the ends of its index. Other parts are read, and the index is checked, when
they are used.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regrow.common.errors import UserError
from regrow.corpus.datatrove_format import open_datatrove
from regrow.corpus.encoding import Tokenizer
from regrow.corpus.mapped_files import (
    ENTRIES_AT_ONCE,
    DocumentIndex,
    Offsets,
    StoreFiles,
    Tokens,
    corrupt,
)
from regrow.corpus.megatron_format import open_megatron
from regrow.corpus.text_files import STORE_NAME
from regrow.corpus.tokenizer_hash import last_id, tokenizer_sha256

_PIECE, _PIECES = 1 << 15, 1 << 12
"""For the hash of a store that regrow did not write: tokens in a piece, and pieces at most."""
_FIRST_DOCUMENTS = 256
"""Documents that are checked to see whether documents end with a token."""


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Documents of tokens, in order.

    Attributes:
        path: The file that holds the tokens.
        tokens: Of all documents, one after the other, uint16 or int32, [tokens]; read-only.
        index: Where documents begin.
        end: The token that ends each document; None if there is none, or it is not known.
        facts: What the writer noted beside it; empty if regrow did not write the store.
    """

    path: Path
    tokens: Tokens
    index: DocumentIndex
    end: int | None
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Tokens:
        """The tokens of a document, with its end token: a view, [tokens]."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        first, last = self.bounds(number, number + 1).tolist()
        return self.tokens[first:last]

    @property
    def text_tokens(self) -> int:
        """Tokens of all documents, without their end tokens."""
        return len(self.tokens) - (len(self) if self.end is not None else 0)

    def text(self, number: int) -> Tokens:
        """The tokens of a document without its end token: a view, [tokens]."""
        document = self[number]
        return document if self.end is None else document[:-1]

    def bounds(self, first: int, last: int) -> Offsets:
        """Where documents `first` to `last - 1` begin, and where the last one ends, in tokens.

        Raises UserError if the index is corrupt.
        """
        found = self.index.bounds(first, last)
        if found[0] < 0 or found[-1] > len(self.tokens) or (np.diff(found) < 0).any():
            raise corrupt(self.path, f"the index between documents {first} and {last} is not one")
        return found

    def starts_of(self, numbers: Offsets) -> Offsets:
        """Where each of these documents begins; past the last one, where that ends.

        `numbers` has any shape. Nothing is checked; `bounds` does that.
        """
        return self.index.starts_of(numbers)

    def starts_between(self, first: int, last: int) -> Offsets:
        """Where the documents begin that begin at token `first` or later, and before `last`.

        Ascending. Raises UserError if the index is corrupt.
        """
        low, high = self.index.before(first), self.index.before(last)
        found = self.bounds(low, max(low, high))[: max(0, high - low)]
        if len(found) and not first <= found[0] <= found[-1] < last:
            raise corrupt(self.path, f"documents {low} to {high} are out of order")
        return found

    @cached_property
    def identity(self) -> str:
        """A hash of the tokens and of where documents begin and end.

        It is made from the hashes that the writer noted. For a store that regrow did not write, the
        whole index is read, and at most 256 MB of the tokens: from a larger store, pieces that are
        evenly spread.
        """
        noted = self.facts.get("sha256")
        if noted is None:
            digest = hashlib.sha256()
            for first in range(0, len(self), ENTRIES_AT_ONCE):
                bounds = self.bounds(first, min(first + ENTRIES_AT_ONCE, len(self)))
                digest.update(bounds.astype("<i8").data)
            pieces = -(-len(self.tokens) // _PIECE)
            for number in range(0, pieces, -(-pieces // _PIECES) or 1):
                digest.update(self.tokens[number * _PIECE : (number + 1) * _PIECE].data)
            noted = digest.hexdigest()
        named = json.dumps([noted, self.tokens.dtype.name, self.end], sort_keys=True)
        return hashlib.sha256(named.encode()).hexdigest()


def is_store(path: Path) -> bool:
    """Whether a path names a token store, in the forms that `open_store` takes, and not text."""
    if path.is_dir():
        return any(
            (path / f"{STORE_NAME}{suffix}").is_file() for suffix in (".idx", ".bin", ".json")
        )
    return path.suffix in (".bin", ".idx", ".ds") or Path(f"{path}.idx").is_file()


def open_store(
    path: Path, *, tokenizer: Tokenizer | None = None, end: int | None = None
) -> TokenStore:
    """Open a store: a directory that regrow wrote, a Megatron prefix or file, or a ``.ds`` file.

    Args:
        path: the store.
        tokenizer: of the model that reads the store. A store of another tokenizer is refused: if
            it says which tokenizer it was made with, or if its first 262,144 tokens hold larger
            ids. Tokens that were
            added to the tokenizer since, such as sentinels, do not make it another one.
        end: the token that ends each document, if the store does not say. Without it, documents end
            with the ``eos`` of `tokenizer` if the first documents of the store do.

    Raises:
        UserError: there is no store, it is not complete, or it is refused.
    """
    if path.name.endswith(".ds"):
        files = open_datatrove(path)
    else:
        prefix = path / STORE_NAME if path.is_dir() else path
        files = open_megatron(
            prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix
        )
    _check_facts(files)
    store = TokenStore(
        files.path, files.tokens, files.index, files.facts.get("end", end), files.facts
    )
    if tokenizer is None:
        return store
    _check_tokenizer(path, files, tokenizer)
    if end is None and "end" not in store.facts and _ends_with(store, tokenizer.eos_token_id):
        return replace(store, end=tokenizer.eos_token_id)
    return store


def _check_facts(files: StoreFiles) -> None:
    """Raise UserError if what is noted beside a store is of another type than regrow writes."""
    for key in ("end", "ids"):
        value = files.facts.get(key)
        if value is not None and (type(value) is not int or not 0 <= value < 1 << 31):
            raise corrupt(files.path.with_suffix(".json"), f"{key} is no id of a token")
    for key, kind in (("tokenizer_sha256", str), ("sha256", dict)):
        if not isinstance(files.facts.get(key), kind | None):
            raise corrupt(files.path.with_suffix(".json"), f"{key} is no hash")


def _check_tokenizer(path: Path, files: StoreFiles, tokenizer: Tokenizer) -> None:
    made_with = files.facts.get("tokenizer_sha256")
    first = files.tokens[:ENTRIES_AT_ONCE]
    largest = int(first.max()) if made_with is None and len(first) else 0
    known = tokenizer_sha256(tokenizer, files.facts.get("ids"))
    if made_with not in (None, known) or largest > last_id(tokenizer):
        named = tokenizer.name_or_path or "the one given"
        raise UserError(
            f"{path}: made with another tokenizer than {named}; "
            "tokenise the text again with the model's own"
        )


def begins_with(store: TokenStore, start: int) -> bool:
    """Whether the first documents of a store that regrow did not write all begin with this token.

    Megatron's own tool writes the start token of a Hugging Face tokenizer (Llama's) so.
    """
    begins = store.bounds(0, min(len(store), _FIRST_DOCUMENTS))
    if store.facts or len(begins) < 2 or (np.diff(begins) == 0).any():
        return False
    return bool((store.tokens[begins[:-1]] == start).all())


def _ends_with(store: TokenStore, end: int | None) -> bool:
    """Whether the first documents all end with this token."""
    ends = store.bounds(0, min(len(store), _FIRST_DOCUMENTS))
    if len(ends) < 2 or (np.diff(ends) == 0).any():
        return False
    return bool((store.tokens[ends[1:] - 1] == end).all())
