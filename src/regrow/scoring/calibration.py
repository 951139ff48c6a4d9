"""The text that scores are computed on, as token ids."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.random_stream import random_stream
from regrow.corpus.packing import pack
from regrow.corpus.text import Documents
from regrow.corpus.turns import TextsInTurns
from regrow.objectives.rows.denoisers import DenoisingTokens

ROW_LENGTH = 512
TOKENS = 16_384
_CHARACTERS_READ = 1 << 21
_CHARACTERS_A_TOKEN = 16
"""Rows are drawn from the first two million characters of a text, or from the first 16 for each
token that is asked for, if these are more. So a text of gigabytes costs no more than a few MB."""

Pieces = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class CalibrationText:
    """The text to calibrate on, and how many of its tokens are used."""

    documents: Documents
    tokens: int = TOKENS

    def read(self) -> Iterator[str]:
        """The documents. Of texts that take turns, long documents are divided among the turns."""
        if isinstance(self.documents, TextsInTurns):
            return self.documents.divided()
        return self.documents()


@dataclass(frozen=True, eq=False)
class Calibration:
    """Rows of tokens from a text, split where one document ends and the next begins.

    `pieces`: token ids of one document each, [tokens], at most a row long, the longest first.
    `denoising`: what span corruption is written with, for the loss of an encoder-decoder.
    `seed`: by which the rows were drawn. The spans that are taken out, and the order of a training
    of layers, follow it too.
    """

    pieces: Pieces
    denoising: DenoisingTokens | None = None
    seed: int = 0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.pieces))

    def batches(self, batch_tokens: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Token ids and where they are no padding, [pieces, tokens] each; 0 on the right pads.

        `batch_tokens`: bound on a batch, padding included; a single piece may be longer.
        """
        first = 0
        while first < len(self.pieces):
            longest = len(self.pieces[first])
            group = self.pieces[first : first + max(1, batch_tokens // longest)]
            ids = np.zeros((len(group), longest), dtype=np.int64)
            for row, piece in zip(ids, group, strict=True):
                row[: len(piece)] = piece
            lengths = np.array([len(piece) for piece in group])
            yield ids, np.arange(longest) < lengths[:, None]
            first += len(group)


def draw_calibration(
    documents: Iterable[str],
    tokenizer: Any,
    *,
    tokens: int = TOKENS,
    row_length: int = ROW_LENGTH,
    seed: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Draw rows by the seed, without replacement, from the rows that the text fills.

    Of a long text only the beginning is read: two million characters, or 16 for each token that is
    asked for, if these are more. `notify` is told so. Later sources are then not read.

    `tokens`: rounded down to whole rows, at least one. A text with fewer rows is used whole, and
    `notify` is told so. `row_length`: the most tokens of a row.

    Raises UserError where the text is empty or fills less than one row.
    """
    documents = iter(documents)
    opening = next(documents, None)
    if opening is None:
        raise UserError("calibration: the text holds no document; give at least one")
    length = min(row_length, tokens)
    most = max(_CHARACTERS_READ, _CHARACTERS_A_TOKEN * tokens)
    beginning = _beginning(chain([opening], documents), most, notify)
    # Packed in rows of one token first: the error about a short text is the one below, not pack's.
    packed = replace(pack(beginning, tokenizer, 1), row_length=length)
    whole = len(packed.inputs) // length
    if whole == 0:
        raise UserError(
            f"calibration: the text is {len(packed.inputs)} tokens, less than one row of {length}; "
            "give more text"
        )
    wanted = max(1, tokens // length)
    if whole < wanted:
        notify(f"calibration: the text fills {whole * length:,} tokens of the {tokens:,} asked for")
    drawn = np.argsort(random_stream(seed, "calibration", 0).random_raw(whole), kind="stable")
    batch = packed.batch(np.sort(drawn[:wanted]).astype(np.int64))
    pieces = []
    for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True):
        pieces += np.split(ids, np.flatnonzero(positions == 0)[1:])
    return Calibration(tuple(sorted(pieces, key=len, reverse=True)), seed=seed)


def _beginning(documents: Iterator[str], most: int, notify: Callable[[str], None]) -> Iterator[str]:
    """The documents up to `most` characters; the last one is cut there."""
    left = most
    for document in documents:
        if left < len(document):
            notify(f"calibration: drawn from the first {most:,} characters of the text")
            if left:
                yield document[:left]
            return
        yield document
        left -= len(document)
