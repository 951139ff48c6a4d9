"""Characters, words and sentences of text in Chinese, in English, and in both.

Chinese has no spaces between words. So the units of a text are the words of scripts with spaces,
and the single characters of Chinese and Japanese. An English word stands for about 1.6 Chinese
characters.
"""

import re
from collections.abc import Iterator

HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Han characters, as the inside of a class in a regular expression."""
KANA = "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"
"""Hiragana and Katakana, likewise."""

_HAN = re.compile(f"[{HAN}]+")
_SPACELESS = re.compile(f"[{HAN}{KANA}]+")
_WORD_PATTERN = rf"[^\W_{HAN}{KANA}]+(?:['’.,_\-][^\W_{HAN}{KANA}]+)*"
_WORD = re.compile(_WORD_PATTERN)
_LETTERS = re.compile(rf"[^\W\d_{HAN}{KANA}][^\W_{HAN}{KANA}]*")
_UNIT = re.compile(rf"[{HAN}{KANA}]|{_WORD_PATTERN}")
_CLOSING = "\"'”’」』）)】》〉\\]"
TERMINAL = tuple("。！？….!?\"'”’」』）")
"""What a line of prose ends with, in Chinese and English."""
_END = re.compile(
    rf"\n+|[。！？]+[{_CLOSING}]*[^\S\n]*\n*|[.!?…]+[{_CLOSING}]*(?:[^\S\n]+\n*|\n+|\Z|(?=[{HAN}]))"
)
_SHORT_FORMS = """
mr mrs ms dr prof st vs etc e.g i.e cf vol al inc ltd co corp jr sr approx dept est gen gov sen rep
capt col lt sgt rev hon jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k a.m p.m ed eds
"""
_ABBREVIATIONS = frozenset(_SHORT_FORMS.split())
_BEFORE_NUMBERS = frozenset(
    ["fig", "figs", "no", "nos", "pp", "p", "ch", "sec", "eq", "vol", "art"]
)
_LAST_WORD = re.compile(r"[\w.]{1,12}\Z")


def count_han(text: str) -> int:
    """How many Han characters a text has."""
    return sum(map(len, _HAN.findall(text)))


def count_spaceless(text: str) -> int:
    """How many characters of Chinese and Japanese a text has."""
    return sum(map(len, _SPACELESS.findall(text)))


def units(text: str) -> list[str]:
    """The words of scripts with spaces, and the single characters of Chinese and Japanese.

    A number is a word too, with its points: ``3.14``. Signs are none.
    """
    return _UNIT.findall(text)


def count_units(text: str) -> int:
    """How many units a text has; some times faster than to list them."""
    return count_spaceless(text) + len(_WORD.findall(text))


def is_spaceless(text: str) -> bool:
    """Whether a text is mostly Chinese or Japanese.

    It then has at least as many of their characters as it has words of other scripts, without
    numbers.
    """
    characters = count_spaceless(text)
    return characters > 0 and characters >= len(_LETTERS.findall(text))


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text; joined, they are the text again.

    A sentence ends with a full stop, a question mark or an exclamation mark and the closing quotes
    and brackets after it, or with the line. White space after it belongs to it. A Western full stop
    ends no sentence inside of a number, before a small letter, or after an initial or a common
    abbreviation.
    """
    start = 0
    for hit in _END.finditer(text):
        if hit[0][0] == "." and not _ends_sentence(text, start, hit):
            continue
        yield text[start : hit.end()]
        start = hit.end()
    if start < len(text):
        yield text[start:]


def _ends_sentence(text: str, start: int, hit: re.Match[str]) -> bool:
    """Whether a sentence that began at `start` ends at a match of full stops."""
    if "\n" in hit[0] or hit.end() == len(text) or hit[0].startswith(".."):
        return "\n" in hit[0] or not text[hit.end() : hit.end() + 1].islower()
    if text[hit.end()].islower():
        return False
    if hit[0].rstrip() != ".":  # closing quotes or brackets
        return True
    word = _LAST_WORD.search(text, max(start, hit.start() - 12), hit.start())
    if word is None:
        return True
    before = word[0].lower()
    if before.isdigit() and not text[start : word.start()].strip():
        return False  # the number of an item in a list
    if before in _BEFORE_NUMBERS:
        return not text[hit.end()].isdigit()
    return before not in _ABBREVIATIONS and not (len(before) == 1 and before.isalpha())
