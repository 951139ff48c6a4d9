"""Hashes of what decides a result. They do not depend on the names of classes in the code."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any


def identity_of(kind: str, **facts: Any) -> str:
    """SHA-256 (hex) of what decides a result.

    Names of classes and fields that hold their default do not enter the hash. So a class that is
    renamed, or gets a new field with a default, keeps its hash.

    Args:
        kind: the kind of thing, a fixed name.
        facts: what decides the result, by name. A fact is text, a number, a bool, None, a list, an
            array, a mapping (its order counts), or a dataclass of such facts.

    Raises:
        TypeError: a fact is of another type.
    """
    text = json.dumps([kind, {name: _plain(fact) for name, fact in facts.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A fact as values that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.compare and not _is_default(field, getattr(value, field.name))
        }
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(each)] for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy
        return value.tolist()
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__}: no fact that can be hashed")


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(field.default == value)
    if field.default_factory is not dataclasses.MISSING:
        return bool(field.default_factory() == value)
    return False
