"""Sentences with named entities, the one form that all files are read into."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain


@dataclass(frozen=True, order=True)
class Span:
    """An entity: tokens `first` to `last - 1` of a sentence, and its type."""

    first: int
    last: int
    type: str


@dataclass(frozen=True)
class Sentence:
    """A sentence as tokens, with its entities.

    Attributes:
        tokens: Its tokens, none empty.
        spans: Its entities, in order; none overlap.
        joiner: What stands between two tokens: a space, or nothing where the tokens are characters.
        asked: The types that were looked for; entities of other types may be in the sentence. None
            if all types of the set were looked for.
    """

    tokens: tuple[str, ...]
    spans: tuple[Span, ...]
    joiner: str = " "
    asked: tuple[str, ...] | None = None

    @property
    def text(self) -> str:
        return self.joiner.join(self.tokens)

    @property
    def types(self) -> list[str]:
        """The types of its entities, sorted."""
        return sorted({span.type for span in self.spans})


@dataclass(frozen=True)
class EntitySet:
    """The sentences of one file.

    Attributes:
        name: Of the set, for tables and errors.
        sentences: In the order of the file.
        types: All types of entities, sorted.
        notes: What of the file could not be kept, one line each.
        left_out: Types of the file that were left out by name, sorted.
    """

    name: str
    sentences: tuple[Sentence, ...]
    types: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def without(self, types: Collection[str]) -> "EntitySet":
        """The set without these types; names are compared without regard to case."""
        left_out = {name.casefold() for name in types}

        def kept(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(name for name in names if name.casefold() not in left_out)

        sentences = tuple(
            replace(
                sentence,
                spans=tuple(s for s in sentence.spans if s.type.casefold() not in left_out),
                asked=None if sentence.asked is None else kept(sentence.asked),
            )
            for sentence in self.sentences
        )
        types_left = kept(self.types)
        gone = {*self.left_out, *self.types} - {*types_left}
        return replace(self, sentences=sentences, types=types_left, left_out=tuple(sorted(gone)))


def entity_set(name: str, sentences: Sequence[Sentence], notes: Iterable[str] = ()) -> EntitySet:
    """The set of these sentences, with all types that occur or were looked for."""
    types = {span.type for sentence in sentences for span in sentence.spans}
    types.update(chain.from_iterable(sentence.asked or () for sentence in sentences))
    return EntitySet(name, tuple(sentences), tuple(sorted(types)), tuple(notes))


def without_overlaps(spans: Iterable[Span]) -> tuple[tuple[Span, ...], int]:
    """The longest entities that do not overlap, in order, and how many others there are.

    Tags can say one entity for each token. Of two entities that overlap, the longer is kept; of two
    of the same length, the first.
    """
    distinct = sorted(set(spans), key=lambda span: (span.first - span.last, span))
    kept: list[Span] = []
    taken: set[int] = set()
    for span in distinct:
        tokens = range(span.first, span.last)
        if taken.isdisjoint(tokens):
            kept.append(span)
            taken.update(tokens)
    return tuple(sorted(kept)), len(distinct) - len(kept)
