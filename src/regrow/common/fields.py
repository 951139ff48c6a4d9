"""Pydantic types for the fields of recipes and options."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_LONGEST_NAME = 255
_LONGEST_PATH = 3_000
"""Bytes; the systems allow some 4,096, and the directory of the recipe is put before it."""


def stays_inside(path: Path) -> Path:
    """Validator: refuse a relative path with `..`, which leaves the recipe's directory.

    Refuses also what no file can be called: names of more than 255 bytes, and half surrogate pairs.
    """
    try:
        names = [os.fsencode(part) for part in path.parts]
    except UnicodeEncodeError:
        raise ValueError(f"{str(path)!r} is not Unicode text") from None
    if any(len(name) > _LONGEST_NAME or b"\0" in name for name in names):
        raise ValueError(f"{str(path)[:60]!r}... is no name of a file")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(f"{str(path)[:60]!r}... is too long for a path")
    if not path.is_absolute() and ".." in path.parts:
        raise ValueError(
            f"{path} leaves the directory of the recipe; write an absolute path if that is meant"
        )
    return path


def refuse_bool(value: Any) -> Any:
    """Validator: refuse true and false where a number is expected; pydantic takes true as 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")
    return value


TextPath = Annotated[Path, AfterValidator(stays_inside)]
"""A path that is absolute, or inside the directory of the recipe."""

Size = Annotated[int, BeforeValidator(refuse_bool), Field(gt=0)]
"""A positive integer."""

Share = Annotated[float, BeforeValidator(refuse_bool), Field(gt=0, le=1)]
"""A fraction above 0 and up to 1."""


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
