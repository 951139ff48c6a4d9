"""Simplified and traditional Chinese, told apart and converted with OpenCC."""

from collections import Counter
from functools import cache
from typing import Any, Literal

Script = Literal["simplified", "traditional"]

_CONFIGS = {"simplified": "t2s", "traditional": "s2t"}
_FIRST, _LAST = 0x3400, 0x9FFF
_CLEAR = 0.9
"""From this share on, characters of one script only make a text one of that script."""


def script_of(text: str) -> Literal["simplified", "traditional", "mixed", "unknown"]:
    """The script of a Chinese text, by the characters that only one of the scripts has."""
    table = _table()
    counts = Counter(text)
    simplified = sum(n for c, n in counts.items() if table.get(c) == "simplified")
    traditional = sum(n for c, n in counts.items() if table.get(c) == "traditional")
    total = simplified + traditional
    if not total:
        return "unknown"
    if simplified >= _CLEAR * total:
        return "simplified"
    return "traditional" if traditional >= _CLEAR * total else "mixed"


def converted(text: str, script: Script) -> str:
    """The text in another script; words that are written in several ways are looked at whole."""
    result: str = _converter(script).convert(text)
    return result


@cache
def _converter(script: Script) -> Any:
    from opencc import OpenCC

    return OpenCC(_CONFIGS[script])


@cache
def _table() -> dict[str, Script]:
    """The script of each character that only one script has."""
    characters = [chr(point) for point in range(_FIRST, _LAST + 1)]
    joined = "\n".join(characters)
    to_simplified = converted(joined, "simplified").split("\n")
    to_traditional = converted(joined, "traditional").split("\n")
    table: dict[str, Script] = {}
    for character, simple, full in zip(characters, to_simplified, to_traditional, strict=True):
        if simple != character and full == character:
            table[character] = "traditional"
        elif full != character and simple == character:
            table[character] = "simplified"
    return table
