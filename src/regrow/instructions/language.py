"""Which of the two languages of the instructions a text is in."""

import re
from collections.abc import Iterable

LANGUAGES = ("en", "zh")
OTHER = "other"
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN_WORD = re.compile("[A-Za-z\u00c0-\u024f]+")
_OTHER = re.compile("[\u0370-\u052f\u0590-\u0e7f\u3040-\u30ff\uac00-\ud7af]")
"""Letters of Greek, Cyrillic, Hebrew, Arabic, Indic scripts, Thai, kana and Hangul."""


def language_of(texts: Iterable[str]) -> str:
    """`zh`, `en`, or `other`, by the script of most of the text.

    A Chinese character counts as a Latin word, since a Chinese text often quotes English names.
    Languages in the Latin script are not told apart from English.
    """
    text = "\n".join(texts)
    han, latin = len(_HAN.findall(text)), len(_LATIN_WORD.findall(text))
    other = len(_OTHER.findall(text))
    if other > han + latin:
        return OTHER
    if han > latin / 2:
        return "zh"
    return "en" if latin else OTHER
