"""Scores of predicted entities.

The strict score counts an entity as right if its first token, its last token and its type are.
An entity that could not be aligned to the sentence counts as wrong. The score of the OpenBA-V2
report compares normalised texts and types, each once in a sentence.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from regrow.ner.answers import Reading
from regrow.ner.sentences import Sentence, Span
from regrow.ner.tags import spans_of_tags

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SIGNS = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Counts:
    """Entities that were predicted rightly, entities that were predicted, and entities there are.

    The scores are shares from 0 to 1, and 0 where they would divide by 0, as in seqeval.
    """

    right: int = 0
    predicted: int = 0
    gold: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.right + other.right, self.predicted + other.predicted, self.gold + other.gold
        )

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        both = self.predicted + self.gold
        return 2 * self.right / both if both else 0.0


@dataclass(frozen=True)
class Scores:
    """The scores of the answers to some sentences.

    Attributes:
        strict: Over all types; first and last token and type must be right.
        by_type: The same for each type. Entities that could not be aligned are not among them.
        report: The score of the OpenBA-V2 report.
        unaligned: Entities of answers that could not be aligned to their sentence; wrong in
            `strict`. The score of the report does not know them.
        missing: Tokens that answers left out.
    """

    strict: Counts
    by_type: dict[str, Counts]
    report: Counts
    unaligned: int
    missing: int


def score(sentences: Sequence[Sentence], readings: Sequence[Reading]) -> Scores:
    """The scores of a reading of each sentence."""
    strict, report = Counts(), Counts()
    by_type: Counter[tuple[str, str]] = Counter()
    for sentence, reading in zip(sentences, readings, strict=True):
        gold, predicted = set(sentence.spans), set(reading.spans)
        strict += Counts(len(gold & predicted), len(predicted) + reading.unaligned, len(gold))
        for name, spans in (
            ("right", gold & predicted), ("predicted", predicted), ("gold", gold)
        ):  # fmt: skip
            by_type.update((span.type, name) for span in spans)
        named = _entities(sentence, sentence.spans)
        found = _entities(sentence, spans_of_tags(reading.tags))
        report += Counts(len(named & found), len(found), len(named))
    types = sorted({kind for kind, _ in by_type})
    return Scores(
        strict,
        {
            t: Counts(by_type[t, "right"], by_type[t, "predicted"], by_type[t, "gold"])
            for t in types
        },
        report,
        sum(reading.unaligned for reading in readings),
        sum(reading.missing for reading in readings),
    )


def _entities(sentence: Sentence, spans: Sequence[Span]) -> set[tuple[str, str]]:
    """The normalised text and the type of each entity, each once."""
    return {
        (_normalised(sentence.joiner.join(sentence.tokens[s.first : s.last])), s.type)
        for s in spans
    }


def _normalised(text: str) -> str:
    """Lower case, without punctuation and articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SIGNS)).split())
