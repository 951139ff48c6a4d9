"""Pydantic types for the fields of recipes and options.

Numbers may be written as text, as `regrow.common.quantities` reads it: `10M`, `1e6`, `99.9%`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from regrow.common.quantities import parse_count, parse_share


def refuse_bool(value: Any) -> Any:
    """Validator: refuse true and false where a number is expected; pydantic takes true as 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")
    return value


def _read_count(value: Any) -> Any:
    """Validator: the integer that a text means; other text is left for pydantic to refuse."""
    number = parse_count(value) if isinstance(value, str) else None
    return refuse_bool(value) if number is None else number


def _read_share(value: Any) -> Any:
    number = parse_share(value) if isinstance(value, str) else None
    return refuse_bool(value) if number is None else number


Count = Annotated[int, BeforeValidator(_read_count)]
"""An integer."""

Number = Annotated[Count, Field(ge=0)]
"""An integer, not negative."""

Size = Annotated[Count, Field(gt=0)]
"""A positive integer."""

PositiveNumber = Annotated[float, BeforeValidator(refuse_bool), Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""

Fraction = Annotated[float, BeforeValidator(_read_share), Field(ge=0, le=1)]
"""A fraction from 0 to 1."""

Share = Annotated[float, BeforeValidator(_read_share), Field(gt=0, le=1)]
"""A fraction above 0 and up to 1."""


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
