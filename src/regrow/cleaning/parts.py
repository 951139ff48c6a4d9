"""The paragraphs and sentences of a text, and hashes by which equal ones are found.

Both splits lose nothing: the parts in order are the text.
"""

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.word_hashes import normalised

_PARAGRAPH = re.compile(r"[^\n]*\n*")
_SENTENCE_END = re.compile(
    r"""(?<=[.!?]) ["'\u2019\u201d)\]]* \s+
      | [\u3002\uff01\uff1f\u2026]+ ["'\u2019\u201d\u300d\u300f\uff09)]* \s*""",
    re.VERBOSE,
)
NOT_COMPARED = 0
"""In place of the hash of a part that is too short to be compared."""


def paragraphs(text: str) -> list[str]:
    """The lines of a text that hold something, each with the line ends and blank lines after it."""
    found: list[str] = []
    for part in _PARAGRAPH.findall(text):
        if found and (not part.strip() or not found[-1].strip()):
            found[-1] += part  # what is blank belongs to the line before; at the beginning, after
        elif part:
            found.append(part)
    return found


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, each with the space after it."""
    found, start = [], 0
    for end in _SENTENCE_END.finditer(paragraph):
        if end.end() > start:
            found.append(paragraph[start : end.end()])
            start = end.end()
    if start < len(paragraph):
        found.append(paragraph[start:])
    return found


def part_hash(part: str, least: int = 1) -> int:
    """64 bits by which equal parts are found; `NOT_COMPARED` if it has fewer characters."""
    words = " ".join(part.split())
    if len(words) < least:
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
