"""Tags of tokens (`O`, `B-type`, `I-type`), and the entities that they stand for."""

import re
from collections.abc import Iterable, Sequence

from regrow.ner.sentences import Span

OUTSIDE = "O"
_TAG = re.compile(r"O|[BIESLUM]-\S.*")


def is_tag(text: str) -> bool:
    """Whether a text is a tag of BIO, IOB1, BIOES, BILOU or BMES."""
    return _TAG.fullmatch(text) is not None


def split_tag(tag: str) -> tuple[str, str]:
    """The letter and the type of a tag; `O` has the type ``""``."""
    letter, _, name = tag.partition("-")
    return letter, name


def spans_of_tags(tags: Sequence[str]) -> tuple[Span, ...]:
    """The entities of tags in any of the schemes, as `conlleval` and seqeval read them.

    An entity begins at `B`, `S` or `U`, where the type changes, and after `O` or the end of
    another. It ends after `E`, `L`, `S` or `U`, and before the next one. So `I` also begins an
    entity (IOB1), and tags that contradict their scheme still have one reading.
    """
    found: list[Span] = []
    first: int | None = None
    before, kind = OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        letter, name = split_tag(tag)
        begins = letter in "BSU" or before in "ELSUO" or name != kind
        if first is not None and (letter == OUTSIDE or begins):
            found.append(Span(first, place, kind))
            first = None
        if letter != OUTSIDE and begins:
            first = place
        before, kind = letter, name
    return tuple(found)


def tags_of_spans(spans: Iterable[Span], tokens: int) -> list[str]:
    """The BIO tags of entities that do not overlap, [tokens]."""
    tags = [OUTSIDE] * tokens
    for span in spans:
        for place in range(span.first, span.last):
            tags[place] = f"{'B' if place == span.first else 'I'}-{span.type}"
    return tags
