"""Pydantic types for the fields of recipes and options."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from regrow.common import quantities
from regrow.common.errors import UserError


def refuse_bool(value: Any) -> Any:
    """Validator: refuse true and false where a number is expected; pydantic takes true as 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")
    return value


def read_as(
    parse: Callable[[str, str], float], wanted: str, *, but: str = ""
) -> Callable[[Any], Any]:
    """Validator: parse text as people type it. Other values stay as they are.

    `parse`: a function of `regrow.common.quantities`. `wanted`: what is right, in words. `but`:
    text that ends so stays.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, str) or (but and value.endswith(but)):
            return refuse_bool(value)
        try:
            return parse("", value)
        except UserError:
            shown = value if len(value) <= 60 else f"{value[:57]}..."
            raise ValueError(f"{wanted} is wanted, not {shown!r}") from None

    return read


_WHOLE = read_as(quantities.count, "a whole number")

Number = Annotated[int, BeforeValidator(_WHOLE), Field(ge=0)]
"""An integer, not negative. Text such as `16_384`, `16K` or `3.4B` is read too."""

Size = Annotated[int, BeforeValidator(_WHOLE), Field(gt=0)]
"""A positive integer. Text such as `16_384`, `16K` or `3.4B` is read too."""

Share = Annotated[
    float, BeforeValidator(read_as(quantities.share, "a share such as 99.9% or 0.999")),
    Field(gt=0, le=1),
]  # fmt: skip
"""A fraction above 0 and up to 1. Text such as `99.9%` is read too."""


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
