"""A blueprint for an architecture that has none, derived from its class and proved."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from regrow.architectures.derived import Derived, NotDerivedError
from regrow.architectures.schema import Blueprint
from regrow.checkpoint.class_query import query_class
from regrow.checkpoint.meta_check import Shapes
from regrow.checkpoint.vocabulary_blueprint import architecture_of, vocabulary_blueprint


def blueprint_of_class(config: Mapping[str, Any], shapes: Shapes) -> Blueprint:
    """A blueprint that is derived from the class, or else one of the vocabulary alone.

    Raises UserError as `vocabulary_blueprint` does.
    """
    return derived_blueprint(config, shapes) or vocabulary_blueprint(config, shapes)


def derived_blueprint(config: Mapping[str, Any], shapes: Shapes) -> Blueprint | None:
    """A blueprint of a decoder for this checkpoint; None if there is none that can be proved.

    `shapes`: of the tensors in the files, by name.
    """
    facts = _derive(json.dumps(config, sort_keys=True), architecture_of(config))
    if "refusal" in facts:
        return None
    derived = Derived(**facts["derived"])
    try:
        return derived.blueprint(shapes, facts["values"], facts["lists"])
    except NotDerivedError:
        return None


def why_not_derived(config: Mapping[str, Any]) -> str | None:
    """Why no blueprint can be derived for the class of this config; None if one can be."""
    found = _derive(json.dumps(config, sort_keys=True), architecture_of(config))
    reason: str | None = found.get("refusal")
    return reason


@lru_cache(maxsize=64)
def _derive(config: str, architecture: str) -> dict[str, Any]:
    found: dict[str, Any] = query_class(ask, config=json.loads(config), architecture=architecture)
    return found


def ask(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """As `derive`, imported only where it runs, since its module needs torch."""
    from regrow.checkpoint.derivation import derive

    return derive(config, architecture)
