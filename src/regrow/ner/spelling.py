"""The tokens of the words and tags of an answer.

Each word and each tag is encoded by itself, as it is written in the middle of a text. So a tag has
the same tokens after every word, in training and when the words are given and only tags are chosen.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise

from regrow.common.errors import UserError
from regrow.corpus.encoding import Tokenizer, encode
from regrow.ner.prompts import Question
from regrow.ner.tags import OUTSIDE

_BEFORE_WORD = (")", "a", "0")
_BEFORE_TAG = ("a", "0", ".")
"""Texts before a word and before a tag; the first that keeps its tokens is used."""


class Spelling:
    """Encodes words and tags with the tokenizer of a model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._inside = cache(self._encode_inside)

    def words(self, question: Question) -> list[tuple[int, ...]]:
        """The tokens of each word, with the space before it; a word may have none."""
        joiner = question.sentence.joiner
        first, *others = question.sentence.tokens
        return [
            tuple(encode([first], self._tokenizer)[0]),
            *(self._inside(joiner + word, _BEFORE_WORD) for word in others),
        ]

    def tag(self, tag: str) -> tuple[int, ...]:
        """The tokens of a tag in its brackets."""
        return self._inside(f"({tag})", _BEFORE_TAG)

    def tags(self, types: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        """The tokens of each tag of these types, given as words.

        Raises UserError if the tokens of a tag are the beginning of those of another.
        """
        names = [OUTSIDE, *(f"{letter}-{name}" for name in types for letter in "BI")]
        found = {name: self.tag(name) for name in names}
        in_order = sorted(found, key=lambda name: found[name])
        for name, following in pairwise(in_order):
            if found[following][: len(found[name])] == found[name]:
                raise UserError(
                    f"the tokenizer gives the tags ({name}) and ({following}) the same tokens; "
                    "rename one of the types"
                )
        return found

    def answer(self, question: Question) -> list[int]:
        """The tokens of the right answer."""
        ids: list[int] = []
        for word, tag in zip(self.words(question), question.tags, strict=True):
            ids += [*word, *self.tag(tag)]
        return ids

    def answer_sizes(self, question: Question) -> tuple[int, int]:
        """The tokens of an answer in the right form: about as many as are usual, and the most.

        A third of the words in entities, with the longest tag, is more than is usual.
        """
        words, count = sum(map(len, self.words(question))), len(question.sentence.tokens)
        tags = self.tags(list(question.names.values()))
        outside, longest = len(tags[OUTSIDE]), max(map(len, tags.values()))
        return words + (2 * outside + longest) * count // 3, words + longest * count

    def _encode_inside(self, text: str, before: tuple[str, ...]) -> tuple[int, ...]:
        """The tokens of a text as they are after another; those of the text alone if none fits."""
        for start in before:
            head, whole = encode([start, start + text], self._tokenizer)
            if whole[: len(head)] == head:
                return tuple(whole[len(head) :])
        return tuple(encode([text], self._tokenizer)[0])
