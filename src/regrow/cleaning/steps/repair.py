"""Repair the characters of a text: wrong encodings, control characters, line ends."""

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from regrow.cleaning.code import lines_with_code
from regrow.cleaning.document import Document, Outcome
from regrow.cleaning.steps.base import CleaningStep, Findings, changed
from regrow.common.fields import Number

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile("\r\n|[\r\v\f\u2028\u2029]")
_ESCAPE = re.compile(r"\x1b\[[0-?]{0,32}[ -/]{0,8}[@-~]")
_OVERSTRIKE = re.compile(r"[^\n\x08]\x08")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_JOINED = (
    "\u0600-\u1dff"  # Arabic, the scripts of India and their neighbours
    "\u2190-\u2bff\u3030\u303d\u3297\u3299\u20e3\ufe0f\u00a9\u00ae"
    "\U0001f000-\U0001fbff\U000e0020-\U000e007f"  # emoji and their parts
)
_ZERO_WIDTH = re.compile(
    "[\u00ad\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffc\U000e0001]"
    f"|(?<![{_JOINED}])[\u200c\u200d]"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+"
)
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff]")
_ROUNDS = 8
"""A repair can lay bare what the next round repairs; text that people write needs two rounds."""


class Repair(CleaningStep):
    """Repair wrong encodings, control and zero-width characters, line ends, and Unicode forms.

    Text in UTF-8 that was read in another encoding (`cafÃ©` for `café`) is repaired by ftfy, line
    by line; text that was read in a Chinese encoding is not, and neither is code. Quotes,
    full-width forms, ligatures and HTML entities stay as they are. Joiners stay inside of emoji and
    in scripts that need them, and marks of direction stay in text with letters from right to left.
    Lone halves of surrogate pairs become U+FFFD. The result is in Unicode's normal form C.

    Attributes:
        blank_lines: So many blank lines in a row stay.
    """

    name: ClassVar[str] = "repair"
    needs: ClassVar[Mapping[str, str]] = {"ftfy": "ftfy"}

    blank_lines: Number = 2

    def apply(self, document: Document) -> Outcome:
        """Repair the text."""
        found = Findings()
        text = document.text
        for _ in range(_ROUNDS):
            before, text = text, self._repaired(text, found)
            if text == before:
                break
        return changed(document, text, found)

    def _repaired(self, text: str, found: Findings) -> str:
        text = _with_whole_characters(text, found)
        text = _decoded(text, found)
        text = _replaced(_LINE_END, "\n", text, "line ends", found)
        text = _replaced(_ESCAPE, "", text, "control characters", found)
        text = _replaced(_OVERSTRIKE, "", text, "control characters", found)
        text = _replaced(_CONTROL, "", text, "control characters", found)
        text = _replaced(_ZERO_WIDTH, "", text, "zero-width characters", found)
        if not _RIGHT_TO_LEFT.search(text):
            text = _replaced(_DIRECTION, "", text, "zero-width characters", found)
        if not unicodedata.is_normalized("NFC", text):
            normal = unicodedata.normalize("NFC", text)
            found.add("not in normal form C", _difference(text, normal))
            text = normal
        most = self.blank_lines + 1
        blank = re.compile(rf"(\n(?:[^\S\n]*\n){{{self.blank_lines}}})(?:[^\S\n]*\n)+")
        return _replaced(blank, "\n" * most, text, "blank lines", found, example="\\n")


def _with_whole_characters(text: str, found: Findings) -> str:
    """The text without surrogates: pairs are joined, lone halves become U+FFFD."""
    if text.isascii() or not _LONE.search(text):
        return text
    joined = _PAIR.sub(
        lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text
    )
    found.add("surrogates", "\ufffd", len(_LONE.findall(text)))
    return _LONE.sub("\ufffd", joined)


def _decoded(text: str, found: Findings) -> str:
    """The text with the bytes of each line read in the right encoding."""
    if text.isascii():
        return text
    from ftfy import fix_encoding

    lines = []
    for line, is_code in lines_with_code(text):
        fixed = line if is_code or line.isascii() else fix_encoding(line, _config())
        if fixed != line:
            found.add("wrong encoding", _difference(line, fixed))
        lines.append(fixed)
    return "".join(lines)


@cache
def _config() -> "TextFixerConfig":
    """ftfy repairs encodings only; all else is done here, where it can be told apart."""
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False,
        fix_character_width=False, uncurl_quotes=False, fix_line_breaks=False,
        fix_surrogates=False, remove_control_chars=False, normalization=None, explain=False,
    )  # fmt: skip


def _replaced(
    pattern: re.Pattern[str], by: str, text: str, reason: str, found: Findings, example: str = ""
) -> str:
    new, count = pattern.subn(by, text)
    if count and new != text:
        first = pattern.search(text)
        assert first is not None
        found.add(reason, example or ascii(first[0])[1:-1], count)
    return new


def _difference(before: str, after: str) -> str:
    """The words around the first place where two texts differ."""
    pairs = zip(before, after, strict=False)
    at = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))
    start = max(at - 10, 0)
    return f"{before[start : at + 15]} → {after[start : at + 15]}"
