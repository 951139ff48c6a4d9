"""Shorten runs of one repeated character or of a short unit."""

import re
from functools import cache
from typing import Annotated, ClassVar

from pydantic import Field

from regrow.cleaning.code import parts_with_code
from regrow.cleaning.document import Document, Outcome
from regrow.cleaning.scripts import HAN, KANA
from regrow.cleaning.steps.base import CleaningStep, Findings, changed
from regrow.common.fields import Count

_RULER = re.compile(r"[\s|+:=\-_*~#.─━═│┃┆┊┌┐└┘├┤┬┴┼╔╗╚╝╠╣╦╩╬▀▄█]*\Z")
"""A line with only these draws a rule or the border of a table; dots among other signs too."""
_NOT_PROSE = re.compile(r"\d|://|[\\/_@=<>{}\[\]]")
"""A word with one of these holds a number, an address, a path or code."""
_WIDE = f"{HAN}{KANA}\u2018-\u201d\u2026\u3001-\u3004\u3008-\u303f\uff01-\uff0f\uff1a-\uff20"
_WORD = re.compile(r"\S+")
_PART = re.compile(rf"[{_WIDE}]+|[^{_WIDE}]+")
"""A part of such a word: Chinese and Japanese with their punctuation, or what is between it."""


class Squeeze(CleaningStep):
    """Shorten runs of one repeated character, `哈哈哈哈哈哈`, or of a short unit, `hahahahahaha`.

    The OpenBA-V2 report squeezes all runs, which also changes numbers and code. This step leaves
    as they are: code; words with a digit, such as 1000000, but not the Chinese around them;
    addresses and paths; white space; and lines that only draw, such as the `=====` under a heading.
    Leader dots in a table of contents are shortened.

    Attributes:
        longest: So many repeats stay; longer runs are shortened to it.
        unit: The longest unit, in characters. Units of two or more characters are letters only, or
            signs only.
    """

    name: ClassVar[str] = "squeeze"

    longest: Annotated[Count, Field(ge=2, le=1_000)] = 4
    unit: Annotated[Count, Field(ge=1, le=16)] = 4

    def apply(self, document: Document) -> Outcome:
        """Shorten the runs."""
        found = Findings()
        parts = [
            part if is_code else self._squeeze(part, found)
            for part, is_code in parts_with_code(document.text)
        ]
        return changed(document, "".join(parts), found)

    def _squeeze(self, text: str, found: Findings) -> str:
        run = _run(self.longest, self.unit)
        if not run.search(text):
            return text

        def word(hit: re.Match[str]) -> str:
            return _PART.sub(part, hit[0]) if _NOT_PROSE.search(hit[0]) else part(hit)

        def part(hit: re.Match[str]) -> str:
            left = hit[0]
            if _NOT_PROSE.search(left):
                return left
            # A run that is shortened may leave another one with its neighbours.
            while run.search(left):
                left = run.sub(shorter, left)
            return left

        def shorter(hit: re.Match[str]) -> str:
            found.add("repeated characters", hit[0])
            return (hit[1] or hit[2] or hit[3]) * self.longest

        lines = text.split("\n")
        return "\n".join(line if _RULER.match(line) else _WORD.sub(word, line) for line in lines)


@cache
def _run(longest: int, unit: int) -> re.Pattern[str]:
    """Matches a run that is too long; one of the groups is its unit."""
    one = rf"([^\s\d])\1{{{longest},}}"
    if unit == 1:
        return re.compile(rf"{one}()()")
    letters = rf"([^\W\d_]{{2,{unit}}}?)\2{{{longest},}}"
    signs = rf"([^\w\s]{{2,{unit}}}?)\3{{{longest},}}"
    return re.compile(f"{one}|{letters}|{signs}")
