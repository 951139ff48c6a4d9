"""The script that a text is written in: Latin, Han, Cyrillic and so on.

The script of a letter or mark is read from its Unicode name, which Python knows, so regrow needs no
table of its own. Digits, punctuation and symbols have no script.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

NO_SCRIPT = "none"
"""The script of a text without letters."""
_OTHER = "other"
_NAMED = (
    "Latin", "Greek", "Cyrillic", "Armenian", "Georgian", "Hebrew", "Arabic", "Syriac", "Thaana",
    "Nko", "Tifinagh", "Ethiopic", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya",
    "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao", "Tibetan", "Myanmar",
    "Khmer", "Mongolian", "Javanese", "Hangul", "Bopomofo", "Yi", "Cherokee", "Canadian",
)  # fmt: skip
_RENAMED = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}
SCRIPTS: tuple[str, ...] = (NO_SCRIPT, *_NAMED, "Han", "Kana", _OTHER)
"""Kana stands for Japanese: a text of Han and enough Kana counts as Kana."""
ALL = "all"
"""The name of all text together."""
RESERVED = frozenset({ALL, *SCRIPTS})
"""Names that no source may have, since they stand beside those of sources."""
_MARKS = ("COMBINING", "VARIATION", "MODIFIER", "MATHEMATICAL")
"""First words of the Unicode names of characters without a script of their own."""
_LETTERS_END = 0x40000
"""There are no letters at or above this code point."""
_HAN, _KANA = SCRIPTS.index("Han"), SCRIPTS.index("Kana")
_ENOUGH_KANA = 4
"""If one letter in so many is Kana, a text is Japanese, and does not only quote names."""


def scripts_of(texts: Sequence[str]) -> NDArray[np.intp]:
    """The script of most letters of each text, as an index of SCRIPTS, shape [texts].

    Of equally frequent scripts, the first in SCRIPTS.
    """
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    owners = np.repeat(np.arange(len(texts)) * len(SCRIPTS), lengths)
    tally = np.bincount(owners + _table()[points], minlength=len(texts) * len(SCRIPTS))
    letters = tally.reshape(len(texts), len(SCRIPTS))
    letters[:, 0] = 0
    japanese = letters[:, _KANA] * _ENOUGH_KANA >= letters[:, _HAN] + letters[:, _KANA]
    japanese &= letters[:, _KANA] > 0
    letters[japanese, _KANA] += letters[japanese, _HAN]
    letters[japanese, _HAN] = 0
    found: NDArray[np.intp] = letters.argmax(axis=1)
    return found


@cache
def _table() -> NDArray[np.uint8]:
    """The index in SCRIPTS of each code point."""
    numbers = {name.upper(): number for number, name in enumerate(SCRIPTS)}
    numbers |= {word: SCRIPTS.index(name) for word, name in _RENAMED.items()}
    table = np.zeros(0x110000, dtype=np.uint8)
    for point in range(_LETTERS_END):
        character = chr(point)
        if unicodedata.category(character)[0] not in "LM":
            continue
        words = unicodedata.name(character, "").replace("-", " ").split(" ")
        if words[0] in _MARKS:
            continue
        at = 1 if words[0] in ("FULLWIDTH", "HALFWIDTH") else 0
        table[point] = numbers.get(words[at], len(SCRIPTS) - 1)
    return table
