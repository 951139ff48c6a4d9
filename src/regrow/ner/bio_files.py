"""Read files with one token and its tag on each line, and an empty line after each sentence.

The columns may stand in either order, with tabs or spaces between them. Where there are more than
two, as in the files of CoNLL-2003, the token is the first and the tag the last. The tags may be
BIO, IOB1, BIOES, BILOU or BMES.

Chinese files have one character on each line. In those of Weibo NER, a digit after the character
says where in its word it stands (`科0`, `技1`); it is left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from regrow.common.errors import UserError
from regrow.ner.packed import read_packed
from regrow.ner.sentences import EntitySet, Sentence, entity_set
from regrow.ner.tags import is_tag, spans_of_tags

_POSITION = re.compile(r".+[0-9]")
_DOCUMENT = "-DOCSTART-"
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of scripts that are written without spaces between words, or with few."""


@dataclass(frozen=True)
class _Line:
    """A line that holds a token, and its number in the file, from 1."""

    number: int
    columns: tuple[str, ...]


def read_bio(path: Path, name: str) -> EntitySet:
    """Read a file of tokens and tags; `name`: of the set.

    Raises UserError, with the number of the line, if it is not such a file.
    """
    sentences = _lines(path)
    lines = [line for sentence in sentences for line in sentence]
    if not lines:
        raise UserError(f"{path}: no line with a token and its tag")
    token_at, tag_at = _columns(path, lines)
    words = [[line.columns[token_at] for line in sentence] for sentence in sentences]
    if _has_positions(words):
        words = [[word[:-1] for word in sentence] for sentence in words]
    joiner = "" if _are_characters(words) else " "
    read = []
    for tokens, sentence in zip(words, sentences, strict=True):
        spans = spans_of_tags([line.columns[tag_at] for line in sentence])
        read.append(Sentence(tuple(tokens), spans, joiner))
    return entity_set(name, read)


def _lines(path: Path) -> list[list[_Line]]:
    """The lines of each sentence. Raises UserError if a line has one column."""
    text = read_packed(path)
    sentences: list[list[_Line]] = [[]]
    has_tabs = "\t" in text
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip("\r")
        if not line.strip():
            sentences.append([])
            continue
        if line.startswith(_DOCUMENT):
            continue
        parts = line.split("\t") if has_tabs else [part for part in line.split(" ") if part]
        columns = tuple(part.strip(" ") for part in parts)
        if len(columns) < 2 or not (columns[0] and columns[-1]):
            raise UserError(f"{path}: line {number}: {_shown(line)}: a token and its tag expected")
        sentences[-1].append(_Line(number, columns))
    return [sentence for sentence in sentences if sentence]


def _columns(path: Path, lines: list[_Line]) -> tuple[int, int]:
    """The places of token and tag in a line.

    Raises UserError if no column has tags alone, or both have.
    """
    tags = {place: [is_tag(line.columns[place]) for line in lines] for place in (0, -1)}
    complete = [place for place, found in tags.items() if all(found)]
    if len(complete) == 2:
        raise UserError(
            f"{path}: both columns hold tags alone, so it is not clear which are the tokens; "
            "give a file with other tokens too"
        )
    if complete:
        return (-1, 0) if complete == [0] else (0, -1)
    likely = max((-1, 0), key=lambda place: sum(tags[place]))
    wrong = lines[tags[likely].index(False)]
    raise UserError(
        f"{path}: line {wrong.number}: {_shown(wrong.columns[likely])}: not a tag; "
        "give O, B-type or I-type in this column"
    )


def _has_positions(sentences: list[list[str]]) -> bool:
    """Whether each token is followed by the place of the character in its word."""
    return all(
        words[0].endswith("0") and all(_POSITION.fullmatch(word) for word in words)
        for words in sentences
    ) and any(_WIDE.match(word) for words in sentences for word in words)


def _are_characters(sentences: list[list[str]]) -> bool:
    """Whether the tokens are characters of a text without spaces between words."""
    words = [word for sentence in sentences for word in sentence]
    single = sum(len(word) == 1 for word in words)
    wide = sum(bool(_WIDE.match(word)) for word in words)
    return single > 0.9 * len(words) and wide > 0.3 * len(words)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]} …")
