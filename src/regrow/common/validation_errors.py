"""Describe the errors of pydantic in the words of a recipe."""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from regrow.common.errors import UserError, one_line

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

Spec = TypeVar("Spec", bound="BaseModel")

Place = tuple[str | int, ...]
"""A path of keys and indices from the root of the validated value."""


def first_error(error: "ValidationError", values: Any) -> tuple[Place, "ErrorDetails"]:
    """The place in `values` of the first error, and the error.

    If a value may have one of several types, pydantic reports an error for each type. The error
    deepest inside the value is taken, since it belongs to the type that fits best.
    """
    found = [(_place(each["loc"], values), each) for each in error.errors()]
    first = found[0][0]
    return max(
        (pair for pair in found if pair[0][: len(first)] == first), key=lambda pair: len(pair[0])
    )


def validated(kind: "type[Spec]", values: Mapping[str, Any]) -> "Spec":
    """The specification with these values.

    Raises UserError, with the key, if a value is not valid.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        place, wrong = first_error(error, values)
        unknown = wrong["type"] == "extra_forbidden"
        problem = f"unknown{near_key(kind, place)}" if unknown else describe(wrong)
        raise UserError(problem, key=dotted(place) or None) from None


def models_in(annotation: Any) -> "Iterator[type[BaseModel]]":
    """The pydantic models in a type: the type itself, or inside a list, a dict or a union."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def near_key(model: "type[BaseModel]", place: Place) -> str:
    """A hint to the valid key that is most like the last of a place: `; did you mean ffn?`.

    Empty if no key is like it. `model`: of the root of the place.
    """
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        inner = next(models_in(field.annotation), None) if field is not None else None
        model = inner or model
    keys = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(place[-1]), keys, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _place(loc: tuple[int | str, ...], values: Any) -> Place:
    """The place of an error, without the names that pydantic gives to members of a union."""
    at: Place = ()
    for part in loc:
        if isinstance(values, dict):
            inside = part in values
        else:
            inside = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if inside:
            at, values = (*at, part), values[part]
    return at


def describe(error: "ErrorDetails") -> str:
    """A validation error as text: what is expected, and what was given."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ")
    given = error["input"]
    shown = f", not {_short(given)}"
    if kind == "literal_error":
        return f"{context['expected'].replace(chr(39), '')} is wanted{shown}"
    if kind in _WANTED:
        return _WANTED[kind].format(**context) + shown
    message = error["msg"]
    return message[0].lower() + message[1:] + shown


_KEYS = "keys with values are wanted"
_WHOLE = "a whole number is wanted"
_WANTED: Mapping[str, str] = {
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE,
    "int_parsing_size": _WHOLE,
    "bool_type": "true or false is wanted",
    "float_type": "a number is wanted", "float_parsing": "a number is wanted",
    "finite_number": "a finite number is wanted",
    "string_type": "text is wanted", "string_too_short": "text is wanted",
    "string_unicode": "Unicode text is wanted",
    "path_type": "a path is wanted",
    "dict_type": _KEYS, "model_type": _KEYS, "mapping_type": _KEYS,
    "list_type": "a list is wanted", "tuple_type": "a list is wanted",
    "greater_than": "more than {gt:g} is wanted", "greater_than_equal": "at least {ge:g} is wanted",
    "less_than": "less than {lt:g} is wanted", "less_than_equal": "at most {le:g} is wanted",
    "too_short": "at least {min_length} is wanted",
    "too_long": "{max_length} values are wanted",
}  # fmt: skip


def _short(value: Any) -> str:
    if value in ({}, [], None):
        return "nothing"
    try:
        text = (
            repr(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)
        )
    except ValueError:  # Python converts no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted(place: Place) -> str:
    """A place as text: `stages.0.cut.ffn`."""
    return ".".join(one_line(str(part)) or repr(part) for part in place)
