"""Short ways to apply a step to a text."""

from regrow.cleaning.document import Document, Step


def document(text: str) -> Document:
    return Document(text, "source/file.jsonl:1", "source")


def text_after(step: Step, text: str) -> str | None:
    """The text that a step makes of a text; None if it drops the document."""
    made = step.apply(document(text)).document
    return None if made is None else made.text


def reasons(step: Step, text: str) -> dict[str, int]:
    """How often each reason was found in a text."""
    return {finding.reason: finding.count for finding in step.apply(document(text)).findings}
