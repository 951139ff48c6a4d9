"""Text from files, made fit for a terminal or for a Markdown page."""

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line end: escape sequences
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that reverse the direction of the text
    "\u2028\u2029\ud800-\udfff]"  # other line ends, and halves of characters
)


def printable(text: str) -> str:
    r"""The text with each character that a terminal obeys or cannot print written as `\x1b`."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


_MARKUP = re.compile(r"[\\`*_\[\]<|~]")
_ENTITIES = {"&": "&amp;", ":": "&#58;", "@": "&#64;", ".": "&#46;"}
"""Written as entities: those that begin an entity, a link or a mention without other marks."""
_LINKS = re.compile(r"&|:(?=//)|@|(?<=www)\.", re.IGNORECASE)


def as_markdown(text: str) -> str:
    """The text in one line, written so that Markdown shows it and takes no part of it as markup."""
    line = " ".join(printable(text).split())
    escaped = _MARKUP.sub(lambda found: f"\\{found[0]}", line)
    return _LINKS.sub(lambda found: _ENTITIES[found[0]], escaped)
