"""Tokenise a long document in windows, so that memory does not grow with its length.

The tokenizers library needs some 160 bytes for each character of a text that it encodes. So a long
document is encoded in windows that overlap. In the overlap both windows give the same tokens after
a few words, whatever a window begins or ends with. The tokens before such a place are taken from
the first window, those after it from the second one: together they are the tokens of the whole.

Only where the two never agree, as in a million equal letters without a space, the text is cut, and
its tokens beside the cut can differ from those of the whole text.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW = 1 << 20
"""Characters that are encoded at once. A shorter document is encoded whole."""
OVERLAP = 1 << 13
"""Characters that two windows share."""
_AGREEING = 16
"""Tokens on each side of the place where two windows are joined that must be the same in both."""


class Encoded(NamedTuple):
    """Tokens of a text, arrays of shape [tokens].

    Attributes:
        ids: Token ids.
        spans: The first character of each token and the one after its last, [tokens, 2].
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int64]


def encode_in_windows(
    text: str, encode: Callable[[str], Encoded], window: int = WINDOW, overlap: int = OVERLAP
) -> Encoded:
    """The tokens of a text, encoded in windows.

    Args:
        text: a document.
        encode: encodes a window; the spans count from the start of the window.
        window: characters in a window.
        overlap: characters that two windows share, less than half a window.
    """
    parts: list[Encoded] = []
    begin = 0
    now = _encoded(text, begin, window, encode)
    while begin + window < len(text):
        following_begin = begin + window - overlap
        following = _encoded(text, following_begin, window, encode)
        join = _join(now, following, following_begin, begin + window)
        if join is None:
            last, following_begin = _cut(now, begin + window - overlap // 2)
            join = last, 0
            following = _encoded(text, following_begin, window, encode)
        parts.append(Encoded(now.ids[: join[0]], now.spans[: join[0]]))
        begin = following_begin
        now = Encoded(following.ids[join[1] :], following.spans[join[1] :])
    parts.append(now)
    return Encoded(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.spans for part in parts]),
    )


def encode_in_cuts(
    text: str, encode: Callable[[str], NDArray[np.int32]], window: int = WINDOW
) -> NDArray[np.int32]:
    """The token ids of a text, [tokens], for a tokenizer that tells no spans.

    The text is cut after its last line end or space within `window` characters.
    """
    parts, begin = [], 0
    while begin < len(text):
        end = begin + window
        if end < len(text):
            space = max(text.rfind("\n", begin, end), text.rfind(" ", begin, end))
            end = space + 1 if space >= begin else end
        parts.append(encode(text[begin:end]))
        begin = end
    return np.concatenate([*parts, np.empty(0, dtype=np.int32)])


def _encoded(text: str, begin: int, window: int, encode: Callable[[str], Encoded]) -> Encoded:
    ids, spans = encode(text[begin : begin + window])
    return Encoded(ids, spans + begin)


def _join(now: Encoded, following: Encoded, begin: int, end: int) -> tuple[int, int] | None:
    """Where to leave a window and enter the next: a number of tokens of each; None if nowhere.

    `begin`, `end`: the characters that both have.
    """
    first = int(np.searchsorted(now.spans[:, 0], begin))
    tail = _places(now, first, len(now.ids))
    head = _places(following, 0, int(np.searchsorted(following.spans[:, 0], end)))
    numbers = {place: number for number, place in enumerate(head)}
    middle = len(tail) // 2
    for number in sorted(range(_AGREEING, len(tail) - _AGREEING), key=lambda n: abs(n - middle)):
        at = numbers.get(tail[number], 0)
        around = slice(number - _AGREEING, number + _AGREEING)
        if at >= _AGREEING and tail[around] == head[at - _AGREEING : at + _AGREEING]:
            return first + number, at
    return None


def _places(encoded: Encoded, first: int, stop: int) -> list[tuple[int, int, int]]:
    spans = encoded.spans[first:stop].tolist()
    ids = encoded.ids[first:stop].tolist()
    return [(begin, end, each) for (begin, end), each in zip(spans, ids, strict=True)]


def _cut(now: Encoded, middle: int) -> tuple[int, int]:
    """The tokens of a window to keep, and the character to go on from, where no two agree.

    The cut is between two characters: none is encoded twice, and none is left out.
    """
    ends = now.spans[:, 1]
    number = int(np.searchsorted(now.spans[:, 0], middle))
    while 0 < number < len(ends) and now.spans[number, 0] < ends[number - 1]:
        number += 1  # the tokens of one character have the same span
    return number, max(middle, int(ends[number - 1]) if number else 0)
