"""Pydantic types for the fields of recipes and options."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def refuse_bool(value: Any) -> Any:
    """Validator: refuse true and false where a number is expected; pydantic takes true as 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")
    return value


Size = Annotated[int, BeforeValidator(refuse_bool), Field(gt=0)]
"""A positive integer."""

Share = Annotated[float, BeforeValidator(refuse_bool), Field(gt=0, le=1)]
"""A fraction above 0 and up to 1."""


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
