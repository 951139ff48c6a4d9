"""A blueprint for an architecture that has none, derived from its class and proved."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from regrow.architectures.derived import Derived, NotDerivedError
from regrow.architectures.schema import Blueprint
from regrow.checkpoint.class_query import in_subprocess
from regrow.checkpoint.meta_check import Shapes
from regrow.checkpoint.vocabulary_blueprint import architecture_of, vocabulary_blueprint

run: Callable[..., Any] = in_subprocess
"""How a class is asked: in a process of its own, since a proof makes float32 float64 for all
threads, and draws random numbers.
"""


def blueprint_of_class(config: Mapping[str, Any], shapes: Shapes) -> Blueprint:
    """A blueprint of a decoder that is derived from its class, or else one of its vocabulary alone.

    `shapes`: of the tensors in the files, by name.

    Raises UserError as `vocabulary_blueprint` does.
    """
    facts = _derive(json.dumps(config, sort_keys=True), architecture_of(config))
    reason = facts.get("refusal")
    if reason is None:
        try:
            return Derived(**facts["derived"]).blueprint(shapes, facts["values"], facts["lists"])
        except NotDerivedError as error:
            reason = str(error)
    return replace(vocabulary_blueprint(config, shapes), reason=reason)


@lru_cache(maxsize=64)
def _derive(config: str, architecture: str) -> dict[str, Any]:
    arguments = {"config": json.loads(config), "architecture": architecture}
    found: dict[str, Any] = run(ask, **arguments)
    return found


def ask(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """As `derive`, imported only where it runs, since its module needs torch."""
    from regrow.checkpoint.derivation import derive

    return derive(config, architecture)
