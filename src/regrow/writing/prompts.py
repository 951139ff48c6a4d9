"""The prompts that a model is given: questions, or beginnings of texts."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.text import read_documents
from regrow.corpus.text_files import kind_of


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file. Raises UserError if it cannot be read, or has none."""
    documents = read_documents(path)
    if path.is_file() and kind_of(path)[0] == ".txt":
        documents = (line for document in documents for line in document.splitlines())
    prompts = [each.strip() for each in documents if each.strip()]
    if not prompts:
        raise UserError(f"{path}: no prompt", key="prompts")
    return prompts


def prompts_sha256(prompts: Sequence[str | None]) -> str:
    """SHA-256 (hex) of prompts, in their order."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
