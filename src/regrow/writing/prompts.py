"""How the texts that a model writes start: with questions, or beginnings of texts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.text import read_documents
from regrow.corpus.text_files import kind_of
from regrow.writing.openings import BRIEF_OPENINGS, brief_openings, openings


@dataclass(frozen=True)
class Start:
    """How a text starts.

    Attributes:
        prompt: The question, or the beginning of a document; None if the model writes it.
        opening: The first words of a question that the model writes.
        is_plain: Whether question and answer are written down without the chat template.
        is_brief: Whether question and answer are short: the answer is the first sentence of what
            the model most likely says.
    """

    prompt: str | None = None
    opening: str = ""
    is_plain: bool = False
    is_brief: bool = False


def question_starts(languages: Sequence[str] = ()) -> list[Start]:
    """The starts of conversations whose questions the model writes, to be used in turn.

    With the same opening, every other one is written down without the chat template: words that
    follow the same template are not all that a model should know.

    `languages`: of the openings (`regrow.writing.openings`).
    """
    return [
        Start(opening=words, is_plain=is_plain) for words, is_plain in _forms(openings(languages))
    ]


def brief_starts(languages: Sequence[str] = ()) -> list[Start]:
    """The starts of brief conversations, to be used in turn; otherwise as `question_starts`.

    There are none if no language has openings of brief questions.
    """
    words = brief_openings(languages)
    # Languages take turns, so each of them has both forms among any few of its openings.
    turns = max(1, len({*languages} & {*BRIEF_OPENINGS}))
    return [Start(None, opening, is_plain, True) for opening, is_plain in _forms(words, turns)]


def _forms(words: Sequence[str], turns: int = 1) -> list[tuple[str, bool]]:
    """Each opening twice, and whether it is plain; `turns` neighbours begin in the same form."""
    parity = {opening: number // turns % 2 for number, opening in enumerate(dict.fromkeys(words))}
    found = []
    for opening in [*words, *words]:
        found.append((opening, parity[opening] == 1))
        parity[opening] = 1 - parity[opening]
    return found


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file. Raises UserError if it cannot be read, or has none."""
    documents = read_documents(path)
    if path.is_file() and kind_of(path)[0] == ".txt":
        documents = (line for document in documents for line in document.splitlines())
    prompts = [each.strip() for each in documents if each.strip()]
    if not prompts:
        raise UserError(f"{path}: no prompt", key="prompts")
    return prompts


def prompts_sha256(prompts: Sequence[str]) -> str:
    """SHA-256 (hex) of prompts, in their order."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
