"""Divide sentences that are too long for a model, and join what is read of the pieces."""

from collections.abc import Callable, Sequence

from regrow.common.errors import UserError
from regrow.ner.answers import Reading
from regrow.ner.prompts import Question, piece
from regrow.ner.sentences import Span
from regrow.ner.tags import spans_of_tags

_ENDS = (
    frozenset(".!?。！？…"),  # noqa: RUF001
    frozenset(";:；："),  # noqa: RUF001
    frozenset(",，、"),  # noqa: RUF001
)
"""Tokens after which a sentence is divided, the best first."""


def divide(question: Question, fits: Callable[[Question], bool]) -> list[Question]:
    """The question in pieces that fit, in order; no token is lost.

    A question that does not fit is divided near its middle: after the end of a sentence if there
    is one in its middle half, else after another sign, else between two tokens. An entity may be
    divided; `join` puts it together again.

    Raises UserError if the question about a single token does not fit.
    """
    if fits(question):
        return [question]
    tokens = question.sentence.tokens
    if len(tokens) == 1:
        raise UserError(
            f"a prompt with {len(question.types)} types and one word does not fit; "
            "give fewer types or a larger `row_length`"
        )
    middle = _middle(tokens)
    return [
        *divide(piece(question, 0, middle), fits),
        *divide(piece(question, middle, len(tokens)), fits),
    ]


def join(readings: Sequence[Reading]) -> Reading:
    """The reading of a whole sentence from those of its pieces.

    An entity at the beginning of a piece goes on with that at the end of the piece before if both
    have the same type and the tag of its first token is `I`.
    """
    if len(readings) == 1:
        return readings[0]
    tags: list[str] = []
    spans: list[Span] = []
    for reading in readings:
        offset = len(tags)
        for span in reading.spans:
            moved = Span(span.first + offset, span.last + offset, span.type)
            goes_on = span.first == 0 and reading.tags[0] == f"I-{span.type}"
            if goes_on and spans and (spans[-1].last, spans[-1].type) == (offset, span.type):
                moved = Span(spans.pop().first, moved.last, span.type)
            spans.append(moved)
        tags += reading.tags
    return Reading(
        tuple(tags),
        tuple(spans),
        sum(reading.unaligned for reading in readings),
        sum(reading.missing for reading in readings),
    )


def reading_of_tags(tags: Sequence[str]) -> Reading:
    """The reading of an answer that has exactly one tag for each token."""
    return Reading(tuple(tags), spans_of_tags(tags), 0, 0)


def _middle(tokens: Sequence[str]) -> int:
    """The token before which a sentence is divided, from 1 to `len(tokens) - 1`."""
    count = len(tokens)
    half = range(max(1, count // 4), min(count - 1, 3 * count // 4) + 1)

    def distance(place: int) -> int:
        return abs(2 * place - count)

    for signs in _ENDS:
        if fitting := [place for place in half if tokens[place - 1] in signs]:
            return min(fitting, key=distance)
    return min(range(1, count), key=distance)
