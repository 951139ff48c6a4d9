"""Drop lines or sentences that are too short to say something."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from regrow.cleaning.code import lines_with_code
from regrow.cleaning.document import Document, Outcome
from regrow.cleaning.scripts import count_units, is_spaceless, sentences
from regrow.cleaning.steps.base import CleaningStep, Findings, changed
from regrow.common.fields import Number


class Sentences(CleaningStep):
    """Drop lines or sentences that are too short.

    Web pages have many of them: menus, buttons, dates. The OpenBA-V2 report drops sentences of
    fewer than 10 words. Code stays, and so do blank lines.

    Attributes:
        by: `line` drops lines that are too short as a whole, so that a short sentence in a
            paragraph stays. `sentence` drops each short sentence, as the report does.
        words: The fewest words, where words have spaces between them.
        characters: The fewest characters, in Chinese and Japanese; words of other scripts count as
            one character.
    """

    name: ClassVar[str] = "sentences"

    by: Literal["line", "sentence"] = "line"
    words: Number = 10
    characters: Number = 15

    def apply(self, document: Document) -> Outcome:
        """Drop what is too short; a document of which nothing is left is dropped."""
        found = Findings()
        text = "".join(self._lines(document.text, found))
        return changed(document, text if found.findings() else document.text, found)

    def _lines(self, text: str, found: Findings) -> Iterator[str]:
        for line, is_code in lines_with_code(text):
            if is_code or not line.strip():
                yield line
            elif self.by == "line":
                if not self._is_short(line):
                    yield line
                else:
                    found.add("short line", line)
            else:
                yield from self._sentences(line, found)

    def _sentences(self, line: str, found: Findings) -> Iterator[str]:
        end = "\n" if line.endswith("\n") else ""
        kept = []
        for sentence in sentences(line.removesuffix("\n")):
            if self._is_short(sentence):
                found.add("short sentence", sentence)
            else:
                kept.append(sentence)
        if kept:
            yield "".join(kept).rstrip() + end

    def _is_short(self, text: str) -> bool:
        few = self.characters if is_spaceless(text) else self.words
        return count_units(text) < few
