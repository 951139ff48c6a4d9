"""Read sentences of JSON files in the two forms in which Pile-NER and its likes are published.

- One object for each sentence: `tokenized_text`, a list of tokens, and `ner`, a list of `[first,
  last, type]` with the last token included (GLiNER, Zaratiana et al. 2024).
- One object for each text and type: `input`, `tagName`, and `output`, a list of mentions as JSON
  text (SLIMER, Zamai et al. 2024). Objects with the same text are put together. A type without a
  mention was looked for and not found.

A file is a JSON list of objects, or one object on each line.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.files import parse_json, parse_json_object
from regrow.ner.packed import read_packed
from regrow.ner.sentences import EntitySet, Sentence, Span, entity_set, without_overlaps

_WORD = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\\W_]+|\\S")
"""A token of a text: a Chinese or Korean character, a run of letters and digits, or a sign."""
_SOLID = re.compile("[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of Chinese and Japanese, which have no spaces between words."""
_SPACED = re.compile("[^\\W_\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
"""A word of another script, or a number."""
_SHAPE = "give `tokenized_text` and `ner`, or `input`, `tagName` and `output`"


def read_json_entities(path: Path, name: str) -> EntitySet:
    """Read such a file; `name`: of the set.

    Raises UserError, with the line or the number of the object, if it has neither of the two forms.
    """
    objects = list(_objects(path))
    if not objects:
        raise UserError(f"{path}: no object; {_SHAPE}")
    if "tokenized_text" in objects[0][1]:
        return _of_tokens(objects, name)
    return _of_mentions(objects, name)


def _objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object, and where it stands."""
    text = read_packed(path)
    if text.lstrip().startswith("["):
        values = parse_json(text.encode(), str(path))
        for number, value in enumerate(values, start=1):
            if not isinstance(value, dict):
                raise UserError(f"{path}: entry {number}: a JSON object is expected")
            yield f"{path}: entry {number}", value
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            yield where, parse_json_object(line.encode(), where)


# Tokens and places


def _of_tokens(objects: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> EntitySet:
    sentences = []
    overlapping = 0
    for where, value in objects:
        tokens = value.get("tokenized_text")
        if not isinstance(tokens, list) or not tokens or not all(map(_is_token, tokens)):
            raise UserError(f"{where}: tokenized_text: a list of tokens is expected")
        given = value.get("ner")
        if not isinstance(given, list):
            raise UserError(f"{where}: ner: a list of [first, last, type] is expected")
        spans, dropped = without_overlaps(_span(where, each, len(tokens)) for each in given)
        overlapping += dropped
        sentences.append(Sentence(tuple(tokens), spans, _joiner(tokens)))
    return entity_set(name, sentences, _overlap_notes(name, overlapping))


def _joiner(tokens: Sequence[str]) -> str:
    """What stands between the tokens of a sentence: nothing if it is Chinese or Japanese.

    If two words of another script follow each other, it is a space, which they need.
    """
    spaced = [_SPACED.fullmatch(token) is not None for token in tokens]
    solid = sum(_SOLID.match(token) is not None for token in tokens)
    is_solid = solid > len(tokens) / 3 and not any(map(all, pairwise(spaced)))
    return "" if is_solid else " "


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _span(where: str, value: Any, tokens: int) -> Span:
    if not (
        isinstance(value, list)
        and len(value) == 3
        and all(type(place) is int for place in value[:2])
        and isinstance(value[2], str)
        and value[2].strip()
    ):
        raise UserError(f"{where}: ner: {json.dumps(value)[:60]}: [first, last, type] is expected")
    first, last, kind = value
    if not 0 <= first <= last < tokens:
        raise UserError(
            f"{where}: ner: {json.dumps(value)[:60]}: the sentence has the tokens 0 to {tokens - 1}"
        )
    return Span(first, last + 1, _type(kind))


# Texts and mentions


def _of_mentions(objects: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> EntitySet:
    by_text: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for where, value in objects:
        text, kind = value.get("input"), value.get("tagName")
        if not (isinstance(text, str) and isinstance(kind, str) and text.strip() and kind.strip()):
            raise UserError(f"{where}: no sentence with its entities; {_SHAPE}")
        by_text[text].setdefault(_type(kind), []).extend(_mentions(where, value.get("output")))
    sentences, missing, overlapping = [], 0, 0
    for text, mentions in by_text.items():
        tokens = tuple(_WORD.findall(text))
        spans: list[Span] = []
        for kind, words in mentions.items():
            for mention in dict.fromkeys(words):
                places = _places(tokens, _WORD.findall(mention))
                missing += not places
                spans += [Span(first, last, kind) for first, last in places]
        kept, dropped = without_overlaps(spans)
        overlapping += dropped
        sentences.append(Sentence(tokens, kept, _joiner(tokens), tuple(sorted(mentions))))
    notes = [f"{name}: {missing:,} mentions are not in their text; left out"] if missing else []
    return entity_set(name, sentences, [*notes, *_overlap_notes(name, overlapping)])


def _mentions(where: str, output: Any) -> list[str]:
    value = output
    if isinstance(output, str):
        try:
            value = json.loads(output)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UserError(f"{where}: output: a JSON list of mentions is expected")
    return [mention for mention in value if mention.strip()]


def _places(tokens: Sequence[str], mention: Sequence[str]) -> list[tuple[int, int]]:
    """All places where the tokens of a mention follow each other."""
    size = len(mention)
    if not size:
        return []
    sought = tuple(mention)
    return [
        (first, first + size)
        for first in range(len(tokens) - size + 1)
        if tuple(tokens[first : first + size]) == sought
    ]


def _type(name: str) -> str:
    return " ".join(name.split())


def _overlap_notes(name: str, overlapping: int) -> list[str]:
    if not overlapping:
        return []
    return [f"{name}: {overlapping:,} entities lie within or across others; the longer are kept"]
