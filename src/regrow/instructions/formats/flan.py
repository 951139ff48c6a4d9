r"""The chains of thought of Flan 2022: TSV of question, answer and rationale.

Line ends inside a column are written as ``\n``. A question may end in its options, a line each.
"""

import re

from regrow.instructions.formats.format import BrokenError
from regrow.instructions.sample import Content, Value

COLUMNS = 3
_OPTIONS = re.compile(r"\n\s*Options:\s*\n", re.IGNORECASE)
_OPTION = re.compile(r"^\s*-?\s*\(([A-Z])\)\s*(.*)$")
_LETTER = re.compile(r"\(?([A-Z])\)?\.?")
_YES_NO = ("yes", "no")


def read_flan(columns: list[str]) -> list[Content]:
    """The content of a row. Raises BrokenError if it has other columns, or an answer of none."""
    if len(columns) != COLUMNS:
        raise BrokenError(f"{len(columns)} columns in place of question, answer and rationale")
    question, answer, rationale = (column.replace("\\n", "\n").strip() for column in columns)
    if not question or not answer:
        raise BrokenError("question or answer: empty")
    fields: dict[str, Value] = {"question": question, "answer": answer}
    parts = _OPTIONS.split(question)
    if len(parts) == 2:
        options = _options(parts[1])
        letter = _LETTER.fullmatch(answer)
        if letter is None or letter[1] not in options:
            raise BrokenError("answer: no letter of an option")
        texts = tuple(options.values())
        fields = {"question": parts[0].strip(), "options": texts, "answer": options[letter[1]]}
    elif answer.casefold() in _YES_NO:
        fields |= {"answer": answer.casefold(), "options": _YES_NO}
    if rationale:
        fields["rationale"] = rationale
    return [Content("question answering", fields)]


def _options(text: str) -> dict[str, str]:
    """The options by letter. Raises BrokenError if a line is none, or two are equal."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        option = _OPTION.match(line)
        if option is None or not option[2].strip():
            raise BrokenError("question: a line of the options without a letter")
        found[option[1]] = option[2].strip()
    if len(set(found.values())) < max(2, len(found)):
        raise BrokenError("question: equal options")
    return found
