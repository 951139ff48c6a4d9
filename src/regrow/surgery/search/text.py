"""The text of a search: one part to choose cuts and refit them, the other to measure them."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.corpus.text import Documents
from regrow.corpus.turns import TextsInTurns, files_in_turns

_PIECE_CHARACTERS = 2_048
"""Documents are cut into pieces of at most so many characters."""
_EVERY = 4
"""One of so many pieces is held back."""
CHARACTERS_A_TOKEN = 4
"""Assumed, to hold back about half as many tokens as are used to calibrate."""


@dataclass(frozen=True)
class SearchText:
    """A text in two parts.

    Attributes:
        sha256: Of the documents.
        documents: Opens the part that cuts are chosen by.
        held_back: Pieces of the other part, from all over the text.
        characters: Of the whole text.
        reading: How the files were read, and how the held-back pieces are to be read.
    """

    sha256: str
    documents: Documents
    held_back: tuple[str, ...]
    characters: int
    reading: Reading = PLAIN_TEXT

    @property
    def held_back_bytes(self) -> int:
        return sum(len(piece.encode()) for piece in self.held_back)


def read_search_text(
    paths: Sequence[Path], tokens: int, reading: Reading = PLAIN_TEXT
) -> SearchText:
    """Read text files, which take turns. `tokens`: how many tokens cuts are chosen by.

    Raises UserError if a file cannot be read, or the text is too short to hold a part back.
    """
    text = _pieces(paths, reading)
    digest, pieces, characters = hashlib.sha256(), 0, 0
    for piece in text():
        data = piece.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
        pieces, characters = pieces + 1, characters + len(piece)
    if pieces < _EVERY:
        raise UserError(
            f"the text is {characters:,} characters, too few to hold a part of it back; give some "
            f"{_EVERY * _PIECE_CHARACTERS:,} characters or more",
            key="text",
        )
    available = pieces // _EVERY
    wanted = tokens // 2 * CHARACTERS_A_TOKEN * pieces // characters
    count = min(max(1, wanted), available)
    # From all over the text: a corpus may be sorted.
    chosen = {(number * available // count + 1) * _EVERY - 1 for number in range(count)}
    held_back = [piece for at, piece in enumerate(text()) if at in chosen]

    def documents() -> Iterator[str]:
        return (piece for at, piece in enumerate(text()) if at % _EVERY != _EVERY - 1)

    return SearchText(digest.hexdigest(), documents, tuple(held_back), characters, reading)


def _pieces(paths: Sequence[Path], reading: Reading) -> TextsInTurns:
    """The pieces of the documents of files."""
    with _named():
        whole = files_in_turns(paths, reading)
    return TextsInTurns([partial(_pieces_of, text) for text in whole.texts], whole.turn)


def _pieces_of(text: Documents) -> Iterator[str]:
    with _named():
        for document in text():
            for first in range(0, len(document), _PIECE_CHARACTERS):
                yield document[first : first + _PIECE_CHARACTERS]


@contextmanager
def _named() -> Iterator[None]:
    """Context manager: an error names the text."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error), key="text") from None
