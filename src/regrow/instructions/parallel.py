"""The same text in two languages, from two files."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.instructions.language import OTHER, language_of
from regrow.instructions.records import Opened, Record, open_records
from regrow.instructions.sample import Content

_LINES = ("text", "TSV", "CSV")
"""Kinds that are read as lines: a text may hold commas and tabs."""
_FEWEST = 2
"""Characters of a side."""
_WORDS_APART = 4.0
"""A side may have so many times the length that the other lets expect."""
_CLOSING = {
    "(": ")", "[": "]", "\uff08": "\uff09", "\u300c": "\u300d", "\u300e": "\u300f",
    "\u300a": "\u300b", "\u201c": "\u201d",
}  # fmt: skip
"""The other half of brackets and quotation marks of both languages."""
_ENDS = frozenset(_CLOSING.values())
Pair = tuple[int, Content | None, str]
"""The number of the record, and its content or why it is none."""


def read_parallel(first: Path, second: Path) -> Iterator[Pair]:
    """The pairs of two files.

    Two plain texts are paired by lines. Two files of JSON objects are paired by `id`. If both texts
    of an id have the same number of lines, each line is a pair, else the whole text is.

    A pair is broken if a side is empty or both are in the same language, as what nobody translated
    is, or one side is far longer than the other.

    Raises UserError if the two files are not of the same kind.
    """
    left, right = _opened(first), _opened(second)
    if left.kind == "text" and right.kind == "text":
        yield from _by_lines(left, right)
    elif "text" not in (left.kind, right.kind):
        yield from _by_ids(left, right)
    else:
        raise UserError(
            f"{first}: {left.kind}, but {second}: {right.kind}; give two texts of lines, or two "
            "files of objects with id and text"
        )


def _opened(path: Path) -> Opened:
    found = open_records(path)
    return Opened(path, "text", found.compression) if found.kind in _LINES else found


def _by_lines(left: Opened, right: Opened) -> Iterator[Pair]:
    for one, other in zip_longest(left.records(), right.records()):
        if one is None or other is None:
            shorter = left if one is None else right
            raise UserError(
                f"{shorter.path}: has fewer lines than its translation; the lines of both must "
                "stand in the same order"
            )
        problem = one.problem or other.problem
        if problem or not (one.value.strip() or other.value.strip()):
            if problem:
                yield one.number, None, problem
            continue
        yield one.number, *paired(one.value, other.value)


def _by_ids(left: Opened, right: Opened) -> Iterator[Pair]:
    """Read both files in turn; what has no partner yet is kept, so the same order needs little."""
    waiting: tuple[dict[str, tuple[int, str]], ...] = ({}, {})
    seen: tuple[set[str], ...] = (set(), set())
    for both in zip_longest(left.records(), right.records()):
        for side, record in enumerate(both):
            if record is None:
                continue
            name, text, problem = _named(record)
            if not problem and name in seen[side]:
                problem = "its id stands twice"
            if problem:
                yield record.number, None, problem
                continue
            seen[side].add(name)
            partner = waiting[1 - side].pop(name, None)
            if partner is None:
                waiting[side][name] = record.number, text
                continue
            texts = (text, partner[1]) if side == 0 else (partner[1], text)
            number = record.number if side == 0 else partner[0]
            for content, why in _parts(*texts):
                yield number, content, why
    for number, _ in (*waiting[0].values(), *waiting[1].values()):
        yield number, None, "its id is in one of the files alone"


def _named(record: Record) -> tuple[str, str, str]:
    """The id and the text of a record, or why it has none."""
    value: Any = record.value
    if record.problem:
        return "", "", record.problem
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return "", "", "no text"
    if not isinstance(value.get("id"), str | int):
        return "", "", "no id"
    return str(value["id"]), value["text"], ""


def _parts(one: str, other: str) -> Iterator[tuple[Content | None, str]]:
    left, right = one.split("\n"), other.split("\n")
    if len(left) != len(right):
        yield paired(one, other)
        return
    for first, second in zip(left, right, strict=True):
        if first.strip() or second.strip():
            yield paired(first, second)


def paired(one: str, other: str) -> tuple[Content | None, str]:
    """The two sides of a translation, or why they are none."""
    one, other = one.strip(), other.strip()
    if len(one) < _FEWEST or len(other) < _FEWEST:
        return None, "a side without text"
    languages = language_of([one]), language_of([other])
    if OTHER in languages:
        return None, "a side in neither English nor Chinese"
    if languages[0] == languages[1]:
        return None, "both sides in the same language"
    sizes = _size(one), _size(other)
    if max(sizes) > _WORDS_APART * (min(sizes) + 1):
        return None, "one side far longer than the other"
    if not (_is_whole(one) and _is_whole(other)):
        return None, "a bracket or a quotation without its other half"
    fields = {
        "text": one, "translation": other,
        "text_language": languages[0], "translation_language": languages[1],
    }  # fmt: skip
    return Content("translation", fields, language=languages[0]), ""


def _is_whole(text: str) -> bool:
    """Whether each bracket has its other half. Texts that a markup cut in pieces often have not."""
    waiting: list[str] = []
    for sign in text:
        if sign in _CLOSING:
            waiting.append(_CLOSING[sign])
        elif sign in _ENDS and (not waiting or waiting.pop() != sign):
            return False
    return not waiting


def _size(text: str) -> float:
    """The length of a text in words; three Chinese characters are about two words."""
    han = len(re.findall("[\u3400-\u9fff]", text))
    return han / 1.5 + len(re.findall("[^\\W\u3400-\u9fff]+", text))
