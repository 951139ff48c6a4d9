"""What a model is asked about a sentence, and the answer that it is to give.

The answer repeats each word with its tag: `Paris(B-location) is(O) big(O)`. The prompt explains
this, lists the types in random order, and gives the sentence (OpenBA-V2 report, named entities).
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from regrow.common.random_stream import random_stream
from regrow.ner.sentences import EntitySet, Sentence
from regrow.ner.tags import OUTSIDE, split_tag, tags_of_spans

MOST_TYPES = 20
"""Types that a prompt of the training lists at most, beyond those in the sentence."""

_PROMPT = (
    "Find the named entities in the sentence. Repeat the sentence, and write after each word its "
    "tag in brackets: (B-type) after the first word of an entity, (I-type) after each other word "
    "of it, and (O) after a word outside of all entities. Types: {types}. Sentence: {sentence}"
)


@dataclass(frozen=True)
class Question:
    """A sentence, and the types that are asked for.

    Attributes:
        sentence: The sentence; entities of other types than `types` count as words outside.
        types: The names of the types as files have them, in the order of the prompt.
        offset: The place of its first token in the whole sentence, if it is a piece of one.
        begins_inside: Whether its first entity began in the piece before.
    """

    sentence: Sentence
    types: tuple[str, ...]
    offset: int = 0
    begins_inside: bool = False

    @property
    def names(self) -> dict[str, str]:
        """The words for each type, by its name; distinct."""
        return type_words(self.types)

    @property
    def prompt(self) -> str:
        types = ", ".join(self.names.values())
        return _PROMPT.format(types=types, sentence=self.sentence.text)

    @property
    def tags(self) -> list[str]:
        """The tag of each token in the answer, with the words for its type, [tokens]."""
        names = self.names
        asked = [span for span in self.sentence.spans if span.type in names]
        found = []
        for tag in tags_of_spans(asked, len(self.sentence.tokens)):
            letter, name = split_tag(tag)
            found.append(tag if letter == OUTSIDE else f"{letter}-{names[name]}")
        if self.begins_inside and found[0].startswith("B-"):
            found[0] = f"I-{found[0][2:]}"
        return found

    @property
    def answer(self) -> str:
        """The answer that is right."""
        tagged = zip(self.sentence.tokens, self.tags, strict=True)
        return self.sentence.joiner.join(f"{token}({tag})" for token, tag in tagged)


def type_words(types: Sequence[str]) -> dict[str, str]:
    """Words for each type: lower case, spaces for underscores, and no round brackets.

    A name stays as it is if its words would be those of another type.
    """
    square = str.maketrans("()", "[]")
    plain = {name: " ".join(name.translate(square).replace("_", " ").split()) for name in types}
    seen = [text.casefold() for text in plain.values()]
    words: dict[str, str] = {}
    for name, text in plain.items():
        lower = text.casefold()
        found = lower if lower and seen.count(lower) == 1 else name.translate(square)
        while found in words.values():
            found += "'"
        words[name] = found
    return words


def evaluation_question(sentence: Sentence, of: EntitySet, seed: int) -> Question:
    """The question with all types of the set, or all that were looked for in the sentence."""
    types = of.types if sentence.asked is None else sentence.asked
    return Question(sentence, _shuffled(types, sentence, seed, "types of a prompt"))


def training_question(
    sentence: Sentence, of: EntitySet, seed: int, most_types: int = MOST_TYPES
) -> Question:
    """The question with the types of the sentence and others, which it has no entity of.

    The others are types that were looked for in the sentence, or other types of the set, drawn at
    random; with them there are at most `most_types`. What is drawn depends on the seed and the
    sentence, and not on its place in the file.
    """
    present = set(sentence.types)
    others = sorted(set(of.types if sentence.asked is None else sentence.asked) - present)
    drawn = _shuffled(others, sentence, seed, "other types of a prompt")
    types = sorted([*present, *drawn[: max(0, most_types - len(present))]])
    return Question(sentence, _shuffled(types, sentence, seed, "types of a prompt"))


def piece(question: Question, first: int, last: int) -> Question:
    """The question about tokens `first` to `last - 1` alone, with the same types."""
    whole = question.sentence
    begins_inside = any(span.first < first < span.last for span in whole.spans)
    spans = tuple(
        replace(span, first=max(span.first, first) - first, last=min(span.last, last) - first)
        for span in whole.spans
        if span.last > first and span.first < last
    )
    part = replace(whole, tokens=whole.tokens[first:last], spans=spans)
    return replace(
        question, sentence=part, offset=question.offset + first,
        begins_inside=begins_inside or (question.begins_inside and first == 0),
    )  # fmt: skip


def _shuffled(
    types: Collection[str], sentence: Sentence, seed: int, purpose: str
) -> tuple[str, ...]:
    """The types in a random order that the seed and the text of the sentence decide."""
    text = hashlib.sha256("\0".join(sentence.tokens).encode()).hexdigest()
    keys = random_stream(seed, f"{purpose} {text}", 0).random_raw(len(types))
    names = sorted(types)
    return tuple(names[place] for place in np.argsort(keys, kind="stable").tolist())
