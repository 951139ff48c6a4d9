"""How often each token occurs in a corpus."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrow.errors import UserError

_CHUNK_CHARACTERS = 1 << 20


def count_tokens(directory: Path, documents: Iterable[str]) -> NDArray[np.int64]:
    """Count the tokens of ``documents`` under ``directory/tokenizer.json``.

    Documents are encoded in chunks of about a million characters, so memory does not grow with the
    corpus. Special tokens are not added and nothing is truncated.

    Returns:
        Occurrences by token id, shape [largest id + 1].

    Raises:
        UserError: tokenizer.json is missing or is not one.
    """
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; a Hugging Face fast tokenizer is needed")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path}: not a tokenizer ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    counts = np.zeros(ids, dtype=np.int64)
    for chunk in _chunks(documents):
        encodings = tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
        tokens = np.fromiter(chain.from_iterable(e.ids for e in encodings), dtype=np.int64)
        counts += np.bincount(tokens, minlength=ids)
    return counts


def _chunks(documents: Iterable[str]) -> Iterator[list[str]]:
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
