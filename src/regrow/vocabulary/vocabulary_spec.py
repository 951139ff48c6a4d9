"""How a vocabulary is chosen, as a user writes it."""

import hashlib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from regrow.common.errors import UserError
from regrow.common.fields import Share, Size

Tokens = Path | list[str]
"""Tokens, or a file with one in each line: as the vocabulary writes them, or as text."""


class VocabularySpec(BaseModel):
    """Which tokens remain, beside those that must.

    Attributes:
        size: How many.
        coverage: As many as make up this share of the tokens that were counted: 0.999.
        counts: What `regrow vocab count` wrote; None counts the text at hand.
        only: Languages (sources or scripts) whose counts decide; all of them where there is none.
        minimum: So many of the most frequent tokens of each language stay, whatever its share.
        keep: Tokens that stay.
        drop: Tokens that go, with those that are merged from them.
        characters: Where the tokenizer has no bytes to spell a character with, keep all characters
            that it has. If not, text can become unknown; `regrow vocab plan` says how much.
        plan: A plan that `regrow vocab plan` wrote, in place of all of the above.
        pad_to: Rows of the embedding, and of the head, are padded to a multiple of this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Size | None = None
    coverage: Share | None = None
    counts: Path | None = None
    only: list[str] = []
    minimum: Size | None = None
    keep: Tokens = []
    drop: Tokens = []
    characters: bool = True
    plan: Path | None = None
    pad_to: Size | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.plan is not None and self.model_fields_set - {"plan", "pad_to"}:
            raise ValueError("a plan says which tokens remain; leave the other options out")
        if self.size is not None and self.coverage is not None:
            raise ValueError("size and coverage both say how many tokens remain; give one")
        if self.counts is None:
            for name in ("coverage", "only", "minimum"):
                if getattr(self, name):
                    raise ValueError(f"{name} goes by counts; give what regrow vocab count wrote")
        return self

    def padding(self, tokens: int, rows: int) -> int:
        """How many rows pad so many tokens; ``rows``: that there are before.

        Raises:
            UserError: there are not enough rows.
        """
        more = -tokens % (self.pad_to or 1)
        if tokens + more > rows:
            raise UserError(
                f"{self.pad_to}: {tokens:,} tokens would have {tokens + more:,} rows, "
                f"more than the {rows:,} there are; give a smaller multiple",
                key="vocab.pad_to",
            )
        return more

    @property
    def identity(self) -> dict[str, Any]:
        """All that the choice depends on, with the SHA-256 of files in place of their paths."""
        found = self.model_dump(mode="json", exclude_defaults=True)
        for name, path in self.paths.items():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    @property
    def paths(self) -> dict[str, Path]:
        """The files that are named, by key."""
        named = {name: getattr(self, name) for name in ("counts", "keep", "drop", "plan")}
        return {name: path for name, path in named.items() if isinstance(path, Path)}


def read_tokens(tokens: Tokens, key: str) -> list[str]:
    """The tokens of a list: lines that are not empty, with their spaces.

    Raises:
        UserError: the file is missing or is not UTF-8.
    """
    if not isinstance(tokens, Path):
        return tokens
    try:
        text = tokens.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{tokens}: no such file; write a token in each line", key=key) from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{tokens}: cannot be read as UTF-8 text", key=key) from None
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]
