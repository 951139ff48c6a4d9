"""Read the answer of a model, and align its words to the tokens of the sentence.

If the answer repeats the sentence, each token is found with the tag after it, also a token that
looks like a tag. Otherwise the answer is split at its tags (OpenBA-V2 report, evaluation), and its
words are aligned to the tokens by their longest common subsequence. Between two aligned words,
words and tokens that are divided in another way, such as `do n't` and `don't`, are aligned by their
characters. Case, spaces and compatibility forms of characters (NFKC) do not count.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from regrow.ner.prompts import Question
from regrow.ner.sentences import Span
from regrow.ner.tags import OUTSIDE, spans_of_tags, split_tag

_ANY_TAG = r"\(\s*(?:O|[BI]-[^()\n]{1,80})\s*\)"
_MOST_WORDS = 2_000
"""Words of an answer that are read; what follows is repetition."""


@dataclass(frozen=True)
class Reading:
    """What an answer says about the tokens of a sentence.

    Attributes:
        tags: The tag of each token, with names of types as files have them, [tokens]. `O` for a
            token that the answer leaves out.
        spans: The entities whose words were all found in the sentence.
        unaligned: How many other entities the answer has.
        missing: How many tokens it leaves out.
    """

    tags: tuple[str, ...]
    spans: tuple[Span, ...]
    unaligned: int
    missing: int


@dataclass(frozen=True)
class _Word:
    """A word of an answer as it is compared, and its tag; a type that was not asked for is `O`."""

    key: str
    tag: str


def read_answer(answer: str, question: Question) -> Reading:
    """What an answer says about the sentence of a question."""
    known = _names_by_words(question)
    pattern = _tag_pattern(known)
    keys = [_key(token) for token in question.sentence.tokens]
    tags = _repeated(answer, keys, pattern)
    if tags is not None:
        words = [_Word(key, _named(tag, known)) for key, tag in zip(keys, tags, strict=True)]
        return _reading(words, {place: [place] for place in range(len(keys))}, len(keys))
    words = _split(answer, pattern, known)
    return _reading(words, _align(words, keys), len(keys))


def _names_by_words(question: Question) -> dict[str, str]:
    """The name of each type by its words, also in lower case if only one type has them so."""
    words = {text: name for name, text in question.names.items()}
    lower = [text.casefold() for text in words]
    return {t.casefold(): n for t, n in words.items() if lower.count(t.casefold()) == 1} | words


def _key(text: str) -> str:
    """What of a word is compared."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _tag_pattern(known: dict[str, str]) -> re.Pattern[str]:
    """Matches a tag of a known type, or anything that has the form of a tag."""
    longest_first = sorted(map(re.escape, known), key=len, reverse=True)
    return re.compile(
        rf"\(\s*(?:[BI]-(?:{'|'.join(longest_first)}))\s*\)|{_ANY_TAG}", re.IGNORECASE
    )


def _named(tag: str, known: dict[str, str]) -> str:
    """A tag in brackets, with the name of its type; `O` if the type was not asked for."""
    letter, words = split_tag(" ".join(tag[1:-1].split()))
    name = known.get(words, known.get(words.casefold()))
    return OUTSIDE if name is None else f"{letter.upper()}-{name}"


def _repeated(answer: str, keys: Sequence[str], pattern: re.Pattern[str]) -> list[str] | None:
    """The tag of each token if the answer repeats the sentence, else None."""
    tags: list[str] = []
    place = 0
    for key in keys:
        for found in pattern.finditer(answer, place):
            before = _key(answer[place : found.start()])
            if before == key:
                tags.append(found[0])
                place = found.end()
                break
            if len(before) > len(key):
                return None
        else:
            return None
    return None if answer[place:].strip() else tags


def _split(answer: str, pattern: re.Pattern[str], known: dict[str, str]) -> list[_Word]:
    """The words of an answer, each before its tag. A line of several words has one tag for all."""
    found: list[_Word] = []
    place = 0
    for match in pattern.finditer(answer):
        tag = _named(match[0], known)
        *_, last_line = answer[place : match.start()].split("\n")  # what is said before an answer
        for word in last_line.split():
            found.append(_Word(_key(word), tag))
            tag = tag.replace("B-", "I-", 1) if tag.startswith("B-") else tag
        place = match.end()
        if len(found) >= _MOST_WORDS:
            break
    return found


# Alignment


def _align(words: Sequence[_Word], keys: Sequence[str]) -> dict[int, list[int]]:
    """The tokens of each word, by its place; words without a token are left out."""
    pairs = _common_subsequence([word.key for word in words], keys)
    found = {word: [token] for word, token in pairs}
    before = (-1, -1)
    for pair in [*pairs, (len(words), len(keys))]:
        inside = range(before[0] + 1, pair[0]), range(before[1] + 1, pair[1])
        found |= _by_characters(words, keys, *inside)
        before = pair
    return found


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence, in order; of several, the first."""
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for a in range(len(left) - 1, -1, -1):
        row, below = lengths[a], lengths[a + 1]
        for b in range(len(right) - 1, -1, -1):
            equal = left[a] == right[b]
            row[b] = below[b + 1] + 1 if equal else max(below[b], row[b + 1])
    pairs = []
    a = b = 0
    while a < len(left) and b < len(right):
        if left[a] == right[b]:
            pairs.append((a, b))
            a, b = a + 1, b + 1
        elif lengths[a + 1][b] >= lengths[a][b + 1]:
            a += 1
        else:
            b += 1
    return pairs


def _by_characters(
    words: Sequence[_Word], keys: Sequence[str], word_range: range, token_range: range
) -> dict[int, list[int]]:
    """The tokens of words that are divided in another way, as far as the characters agree."""
    found: dict[int, list[int]] = {}
    open_words: list[int] = []
    open_tokens: list[int] = []
    left = right = ""
    next_word, next_token = iter(word_range), iter(token_range)
    while True:
        source = next_word if len(left) <= len(right) else next_token
        place = next(source, None)
        if place is None:
            return found
        if source is next_word:
            open_words.append(place)
            left += words[place].key
        else:
            open_tokens.append(place)
            right += keys[place]
        if not (left.startswith(right) or right.startswith(left)):
            return found
        if left == right and open_words and open_tokens:
            found |= {word: list(open_tokens) for word in open_words}
            open_words, open_tokens, left, right = [], [], "", ""


def _reading(words: Sequence[_Word], tokens_of: dict[int, list[int]], tokens: int) -> Reading:
    tags = [OUTSIDE] * tokens
    seen: set[int] = set()
    for place, word in enumerate(words):
        for number, token in enumerate(tokens_of.get(place, ())):
            letter, name = split_tag(word.tag)
            if letter != OUTSIDE and token not in seen:
                tags[token] = word.tag if number == 0 else f"I-{name}"
            seen.add(token)
    spans, unaligned = [], 0
    for entity in spans_of_tags([word.tag for word in words]):
        found = [tokens_of.get(place, []) for place in range(entity.first, entity.last)]
        inside = sorted({token for each in found for token in each})
        if all(found) and inside[-1] - inside[0] == len(inside) - 1:
            spans.append(Span(inside[0], inside[-1] + 1, entity.type))
        else:
            unaligned += 1
    return Reading(tuple(tags), tuple(sorted(set(spans))), unaligned, tokens - len(seen))
