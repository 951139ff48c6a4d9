"""The paragraphs of a text, and hashes by which equal paragraphs and sentences are found."""

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.word_hashes import normalised

_PARAGRAPH = re.compile(r"[^\n]*\n*")
NOT_COMPARED = 0
"""In place of the hash of a part that is not compared, since it is short or no prose."""


def paragraphs(text: str) -> list[str]:
    """The lines of a text that hold something, each with the line ends and blank lines after it.

    Joined, they are the text again.
    """
    found: list[str] = []
    for part in _PARAGRAPH.findall(text):
        if found and (not part.strip() or not found[-1].strip()):
            found[-1] += part  # what is blank belongs to the line before; at the beginning, after
        elif part:
            found.append(part)
    return found


def part_hash(part: str, least: int = 1) -> int:
    """64 bits by which equal parts are found.

    `NOT_COMPARED` if it has fewer characters than `least`, or no letter, as rulers and rows of
    numbers.
    """
    words = " ".join(part.split())
    if len(words) < least or not any(map(str.isalpha, words)):
        return NOT_COMPARED
    digest = hashlib.blake2b(normalised(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def text_hash(text: str) -> tuple[int, int]:
    """128 bits by which equal documents are found; `text`: normalised."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def without(parts: list[str], repeated: NDArray[np.bool_]) -> str:
    """The text without the parts that are marked."""
    return "".join(
        part for part, is_repeated in zip(parts, repeated, strict=True) if not is_repeated
    )
