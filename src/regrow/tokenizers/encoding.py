"""Open the tokenizer of a model directory, encode text with it, and count the tokens."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regrow.common.files import read_text
from regrow.corpus.long_documents import WINDOW, Encoded, encode_in_windows
from regrow.models.loading import library_errors
from regrow.tokenizers.tokenizer_files import read_tokenizer
from regrow.tokenizers.tokenizer_form import check_size
from regrow.tokenizers.tokenizer_json import build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]

_CHUNK_CHARACTERS = 1 << 20


def count_tokens(directory: Path, documents: Iterable[str]) -> NDArray[np.int64]:
    """Count the tokens of ``documents`` under the tokenizer of ``directory``, in this process.

    Documents are encoded in chunks of about a million characters, so memory does not grow with
    their number. Special tokens are not added and nothing is truncated.

    Returns:
        Occurrences by token id, shape [largest id + 1].

    Raises:
        UserError: there is no tokenizer.
    """
    tokenizer = open_tokenizer(directory)
    ids = id_count(tokenizer)
    counts = np.zeros(ids, dtype=np.int64)
    for chunk in chunks(documents):
        tokens, _ = encode(tokenizer, chunk)
        counts += np.bincount(tokens, minlength=ids)
    return counts


def open_tokenizer(directory: Path) -> "Tokenizer":
    """The tokenizer of a model directory, without truncation and padding.

    Raises:
        UserError: there is no tokenizer, or tokenizer.json is not one.
    """
    path = directory / "tokenizer.json"
    contents = None if path.is_file() else json.dumps(read_tokenizer(directory))
    with library_errors(f"{path}: not a tokenizer"):
        tokenizer = build_tokenizer(read_text(path) if contents is None else contents)
    check_size(id_count(tokenizer), str(path))
    return tokenizer


def id_count(tokenizer: "Tokenizer") -> int:
    """The largest id + 1."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def chunks(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists of about a million characters."""
    chunk: list[str] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        # An empty document still takes room.
        characters += len(document) + 1
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode(tokenizer: "Tokenizer", texts: list[str]) -> tuple[Ids, Ids]:
    """The tokens of all texts, one after the other, [tokens], and of how many is each, [texts].

    A text of more than a million characters is encoded in windows.
    """
    short = [text for text in texts if len(text) <= WINDOW]
    with library_errors("tokenizer.json: the tokenizer cannot encode the text"):
        encodings = tokenizer.encode_batch_fast(short, add_special_tokens=False)
    lines = [encoding.ids for encoding in encodings]
    if len(short) < len(texts):
        rest = iter(lines)
        lines = [
            next(rest) if len(text) <= WINDOW else _encode_long(tokenizer, text) for text in texts
        ]
    lengths = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
    return np.fromiter(chain.from_iterable(lines), np.int64, count=int(lengths.sum())), lengths


def _encode_long(tokenizer: "Tokenizer", text: str) -> list[int]:
    def encode_window(window: str) -> Encoded:
        found = tokenizer.encode(window, add_special_tokens=False)
        spans = np.array(found.offsets, dtype=np.int64).reshape(-1, 2)
        return Encoded(np.array(found.ids, dtype=np.int32), spans)

    ids: list[int] = encode_in_windows(text, encode_window).ids.tolist()
    return ids
