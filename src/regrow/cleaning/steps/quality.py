"""Drop documents that rules find to be no good prose."""

import re
from collections.abc import Callable, Iterator
from typing import ClassVar

from regrow.cleaning.code import lines_with_code
from regrow.cleaning.document import Document, Finding, Outcome
from regrow.cleaning.quality_limits import ChineseLimits, Limits
from regrow.cleaning.repetition import Grams, duplicate_shares
from regrow.cleaning.scripts import TERMINAL, count_units, is_spaceless, sentences, units
from regrow.cleaning.steps.base import CleaningStep, Findings, changed, shortened

_ENGLISH_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
_CHINESE_STOP_WORDS = frozenset("的是在了和有不这這我他一也就与與为為以及之而于於其中上")
_BULLETS = ("-", "•", "*", "·", "●", "○", "■", "◆", "‣", "▪", "–")
_ELLIPSES = ("...", "…", "。。。")
_ELLIPSIS = re.compile(r"\.{3,}|…+|。{3,}")
_BLANK = re.compile(r"\n\s*\n")
_POLICY = re.compile(
    r"terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
    r"|使用条款|隐私政策|隐私声明|版权所有|使用cookies?|javascript",
    re.IGNORECASE,
)
_LOREM_IPSUM = re.compile(r"lorem ipsum", re.IGNORECASE)
_SEVERAL = 4
"""How the ends of fewer lines are written says nothing: a long paragraph may be cut off."""
_POLICY_LINE = 200
"""A longer line has more to say than that a page has a policy."""


class Quality(CleaningStep):
    """Drop documents that are no good prose, by the rules of Gopher, C4 and FineWeb.

    The sources are Rae et al. 2021, "Scaling language models", section A.1.1; Raffel et al. 2020,
    "Exploring the limits of transfer learning", section 2.2; and Penedo et al. 2024, "The FineWeb
    datasets", section 3.6. Their limits are made for English: almost all Chinese documents break
    them. So documents that are mostly Chinese or Japanese have limits of their own, where a unit
    is a character in place of a word. Code is left out of what is judged, and a document that is
    mostly code is kept. As in C4, short lines and lines on cookies, policies and JavaScript are
    dropped before a document is judged. C4 also drops documents with a curly bracket, and lines
    that do not end a sentence; this step does not.

    Attributes:
        spaced: Limits for scripts with spaces.
        chinese: Limits for Chinese and Japanese.
        policy_lines: Drop lines of up to 200 characters on cookies, policies and JavaScript.
    """

    name: ClassVar[str] = "quality"

    spaced: Limits = Limits()
    chinese: ChineseLimits = ChineseLimits()
    policy_lines: bool = True

    def apply(self, document: Document) -> Outcome:
        """Keep or drop the document; the first rule that it breaks is the reason."""
        found = Findings()
        lines = list(lines_with_code(document.text))
        prose = "".join(line for line, is_code in lines if not is_code)
        if 2 * len("".join(prose.split())) < len("".join(document.text.split())):
            return Outcome(document)
        chinese = is_spaceless(prose)
        limits = self.chinese if chinese else self.spaced
        kept = [(line, code) for line, code in lines if code or self._is_kept(line, limits, found)]
        prose = "".join(line for line, is_code in kept if not is_code)
        reason = next(_broken(prose, limits, chinese=chinese), None)
        if reason is not None:
            return Outcome(None, (Finding(reason, shortened(document.text)),))
        return changed(document, "".join(line for line, _ in kept), found)

    def _is_kept(self, line: str, limits: Limits, found: Findings) -> bool:
        """Whether a line of prose stays in the document."""
        if not line.strip():
            return True
        if self.policy_lines and len(line) <= _POLICY_LINE and _POLICY.search(line):
            found.add("policy line", line)
            return False
        if limits.least_line_units is not None and count_units(line) < limits.least_line_units:
            found.add("line of few words", line)
            return False
        return True


def _broken(text: str, limits: Limits, *, chinese: bool) -> Iterator[str]:
    """The reasons why a text is no good prose."""
    if _LOREM_IPSUM.search(text):
        yield "lorem ipsum"
    words = units(text)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    yield from _by_size(words, limits)
    yield from _by_signs(text, words, limits)
    yield from _by_lines(lines, limits)
    yield from _by_words(text, words, limits, chinese=chinese)
    if _above(text.count("\n"), limits.line_ends, len(words)):
        yield "many line ends"
    yield from _by_repetition(text, lines, words, limits)


def _by_size(words: list[str], limits: Limits) -> Iterator[str]:
    if limits.least_units is not None and len(words) < max(limits.least_units, 1):
        yield "too short"
    if limits.most_units is not None and len(words) > limits.most_units:
        yield "too long"
    length = sum(map(len, words)) / max(len(words), 1)
    if limits.least_unit_length is not None and length < limits.least_unit_length:
        yield "short words"
    if limits.most_unit_length is not None and length > limits.most_unit_length:
        yield "long words"


def _by_signs(text: str, words: list[str], limits: Limits) -> Iterator[str]:
    if _above(text.count("#"), limits.hashes, len(words)):
        yield "many hashes"
    if _above(len(_ELLIPSIS.findall(text)), limits.ellipses, len(words)):
        yield "many ellipses"
    letters = sum(any(map(str.isalpha, word)) for word in words)
    if limits.least_letters is not None and letters < limits.least_letters * len(words):
        yield "few letters"


def _by_lines(lines: list[str], limits: Limits) -> Iterator[str]:
    def count(holds: Callable[[str], bool]) -> int:
        return sum(map(holds, lines))

    if _above(count(lambda line: line.startswith(_BULLETS)), limits.bullet_lines, len(lines)):
        yield "mostly bullets"
    if _above(count(lambda line: line.endswith(_ELLIPSES)), limits.ellipsis_lines, len(lines)):
        yield "lines end with ellipses"
    ends = count(lambda line: line.endswith(TERMINAL))
    least = limits.least_terminal_lines
    if least is not None and len(lines) >= _SEVERAL and ends < least * len(lines):
        yield "few lines end a sentence"
    short = count(lambda line: len(line) <= limits.short_line)
    if _above(short, limits.short_lines, len(lines)):
        yield "short lines"


def _by_words(text: str, words: list[str], limits: Limits, *, chinese: bool) -> Iterator[str]:
    stop_words = _CHINESE_STOP_WORDS if chinese else _ENGLISH_STOP_WORDS
    if limits.least_stop_words is not None:
        found = stop_words.intersection(words if chinese else map(str.lower, words))
        if len(found) < limits.least_stop_words:
            yield "few stop words"
    if limits.least_sentences is not None:
        ended = sum(each.rstrip().endswith(TERMINAL) for each in sentences(text))
        if ended < limits.least_sentences:
            yield "few sentences"


def _by_repetition(text: str, lines: list[str], words: list[str], limits: Limits) -> Iterator[str]:
    copies, characters = duplicate_shares(lines)
    if _above(copies, limits.duplicate_lines):
        yield "repeated lines"
    if _above(characters, limits.duplicate_line_characters):
        yield "repeated lines"
    copies, characters = duplicate_shares([p.strip() for p in _BLANK.split(text) if p.strip()])
    if _above(copies, limits.duplicate_paragraphs):
        yield "repeated paragraphs"
    if _above(characters, limits.duplicate_paragraph_characters):
        yield "repeated paragraphs"
    grams = Grams(words)
    for n, most in limits.top_grams:
        if _above(grams.top_share(n), most):
            yield f"one phrase of {n} repeated"
    left = sorted(limits.duplicate_grams)
    while left:
        (n, most), *left = left
        share = grams.duplicate_share(n)
        if share > most:
            yield f"phrases of {n} repeated"
        if all(share <= each for _, each in left):
            return  # the share of longer phrases is not larger


def _above(value: float, limit: float | None, per: int = 1) -> bool:
    """Whether there is a limit, and the value for each of `per` is above it."""
    return limit is not None and value > limit * per
