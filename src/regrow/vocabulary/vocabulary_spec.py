"""How a vocabulary is chosen, as a user writes it."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from regrow.common.errors import UserError
from regrow.common.fields import Share, Size

Tokens = Path | list[str]
"""Tokens, or a file with one in each line: as the vocabulary writes them, or as text."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class VocabularySpec(BaseModel):
    """Which tokens stay, beside those that must stay.

    Attributes:
        size: The number of tokens.
        coverage: Keep as many tokens as cover this share of the counted tokens, such as 0.999. It
            needs `counts`.
        counts: A file that `regrow vocab count` wrote. None counts the calibration text; in a run,
            the training text without what the original writes.
        only: Languages (sources or scripts) whose counts decide; by default all. It needs `counts`.
        minimum: Of each language, so many of its most frequent tokens stay. It needs `counts`.
        keep: Tokens that stay.
        drop: Tokens to remove, with all tokens that are merged from them.
        characters: If the tokenizer has no tokens for bytes, keep all characters. If false, text
            can become unknown; `regrow vocab plan` says how much.
        plan: A plan that `regrow vocab plan` wrote, in place of all of the above.
        pad_to: Rows of the embedding, and of the head, are padded to a multiple of this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Size | None = None
    coverage: Share | None = None
    counts: Path | None = None
    only: Annotated[list[str], BeforeValidator(_listed)] = []
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
        """The number of rows of padding for so many tokens; ``rows``: of the model before.

        Raises:
            UserError: there are not enough rows.
        """
        more = -tokens % (self.pad_to or 1)
        if tokens + more > rows:
            raise UserError(
                f"{tokens:,} tokens would have {tokens + more:,} rows, "
                f"more than the {rows:,} there are; give a smaller multiple",
                key="vocab.pad_to",
                value=self.pad_to,
            )
        return more

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the choice, with the SHA-256 of files in place of their paths."""
        found = self.model_dump(mode="json", exclude_defaults=True)
        for name, path in self.paths.items():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    @property
    def paths(self) -> dict[str, Path]:
        """The files of the spec, by key."""
        named = {name: getattr(self, name) for name in ("counts", "keep", "drop", "plan")}
        return {name: path for name, path in named.items() if isinstance(path, Path)}


def read_tokens(tokens: Tokens, key: str) -> list[str]:
    """The tokens of a list, or of a file: its lines that are not empty, with their spaces.

    ``key``: of an error.

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
