"""Which of the texts that a model wrote are kept, and how much of them."""

import re
from collections.abc import Callable, Sequence

from regrow.cleaning.scripts import sentences
from regrow.common.errors import UserError

LEAST_TOKENS = 4
"""A question, an answer or a document with fewer tokens is too short."""
_WINDOW = 128
_GRAM = 4
_LEAST_GRAMS = 16
_LEAST_DISTINCT = 0.5
_GOES_ON = re.compile(r"(?:\b[A-Za-z]\.)+$|\b(?:Mt|Ft)\.$|^\w+!$")
"""Sentences that are not over yet: what follows initials belongs to them, or to "Sure!"."""
_NO_SENTENCE = re.compile(r"```|[:\uff1a]\W*$|^[#<|]|^(?:[*-]|\d+[.)])\s")
"""Code, what announces a list or code, headings, tags and items of lists."""


def is_repetitive(ids: Sequence[int]) -> bool:
    """Whether a text repeats itself, as small models do in a loop.

    True if, in a window of 128 tokens or in a shorter text, fewer than half of the 4-grams of
    tokens are distinct. The windows overlap by half. (Share of repeated n-grams: Rae et al. 2021,
    "Scaling language models", section A.1.)
    """
    last = max(len(ids) - _WINDOW // 2, 1)
    return any(_repeats(ids[at : at + _WINDOW]) for at in range(0, last, _WINDOW // 2))


def first_sentence(text: str) -> str | None:
    """The first sentence of a text; None if no other follows, since it may not be complete.

    It is empty if the text begins with something else: code, a heading, or the announcement of a
    list.
    """
    found = ""
    for each in sentences(text):
        sentence = found.strip()
        if sentence and not _GOES_ON.search(sentence):
            return sentence if is_sentence(sentence) else ""
        found += each
    return None


def is_sentence(text: str) -> bool:
    """Whether a sentence is one, and no code, heading, tag, item or announcement of a list."""
    return bool(text) and not _NO_SENTENCE.search(text)


def language_filter(languages: Sequence[str]) -> Callable[[str], bool] | None:
    """Whether a text is in one of these languages, as the step `language` of cleaning decides.

    So a text whose language is not sure, or that has no words, is in none of them. Code is in each.

    `languages`: codes of ISO 639. Without any there is no filter, and no package is needed.

    Raises UserError if a code is unknown, or a package is missing.
    """
    if not languages:
        return None
    from regrow.cleaning.document import Document
    from regrow.cleaning.steps.language import Language
    from regrow.common.validation_errors import validated

    try:
        step = validated(Language, {"keep": languages})
    except UserError as error:
        raise error.at("languages") from None
    return lambda text: step.apply(Document(text, id="", source="")).document is not None


def _repeats(ids: Sequence[int]) -> bool:
    grams = [tuple(ids[at : at + _GRAM]) for at in range(len(ids) - _GRAM + 1)]
    return len(grams) >= _LEAST_GRAMS and len(set(grams)) < _LEAST_DISTINCT * len(grams)
