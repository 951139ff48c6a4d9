"""The main text of HTML pages."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from regrow.cleaning.document import Document, Outcome
from regrow.cleaning.steps.base import CleaningStep, Findings, changed, dropped, shortened

_START = re.compile(
    r"\s*(?:<\?xml[^>]{0,200}>\s*|<!--[^>]{0,2000}-->\s*){0,4}"
    r"<(?:!doctype\s+html|html|head|body|title|meta|div|p|table|article|section|main|h[1-6]|ul|ol"
    r"|span|font|center|br|img|a)\b",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"<(?:!doctype\s+html|html|body)\b", re.IGNORECASE)
_TAG = re.compile(r"</(?:p|div|table|td|li|ul|ol|h[1-6]|span|a|section|article)\s*>", re.IGNORECASE)
_BEGINNING = 20_000
"""Characters in which a page that begins with other things must show that it is HTML."""
_SURROGATES = re.compile("[\ud800-\udfff\x00]")
_DEEPEST = 512
"""Browsers show no deeper nesting. The time to take the text out grows with its square."""


class Html(CleaningStep):
    """Take the text out of documents that are HTML; other documents stay as they are.

    A document is HTML if it begins with a tag of HTML and has a closing one, or if `<html>`,
    `<body>` or a document type stand near its beginning. So Markdown with some tags is none, and
    neither is a text about HTML. Resiliparse takes out the text; line ends follow from the tags,
    and lists get bullets. A page whose tags are nested more than 512 deep is dropped.

    Attributes:
        main: Leave out menus, headers, footers, comments and the like.
    """

    name: ClassVar[str] = "html"
    needs: ClassVar[Mapping[str, str]] = {"resiliparse": "resiliparse"}

    main: bool = True

    def apply(self, document: Document) -> Outcome:
        """The text of a page; a page without main text is dropped."""
        if not is_html(document.text):
            return Outcome(document)
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree

        page = HTMLTree.parse(_SURROGATES.sub("\ufffd", document.text))
        if document.text.count("<") > _DEEPEST and _is_too_deep(page):
            return dropped("nested too deeply", document.text)
        text: str = extract_plain_text(
            page, preserve_formatting=True, main_content=self.main, list_bullets=True,
            alt_texts=False, links=False, form_fields=False, noscript=False,
            comments=not self.main,
        ).strip()  # fmt: skip
        if not text:
            return dropped("no main text", document.text)
        found = Findings()
        found.add("markup", shortened(document.text))
        return changed(document, text, found)


def is_html(text: str) -> bool:
    """Whether a document is HTML, whole or a part of a page."""
    if "<" not in text:
        return False
    if _START.match(text):
        return _WHOLE.search(text, 0, _BEGINNING) is not None or _TAG.search(text) is not None
    start = text[:_BEGINNING].lstrip()
    return start.startswith("<") and _WHOLE.search(start) is not None


class _TooDeepError(Exception):
    """Ends the walk over a page."""


def _is_too_deep(page: Any) -> bool:
    """Whether a node of a parsed page has too many around it."""
    from resiliparse.parse.html import traverse_dom

    def visit(context: Any) -> None:
        if context.depth > _DEEPEST:
            raise _TooDeepError

    try:
        traverse_dom(page.document, visit)
    except _TooDeepError:
        return True
    return False
