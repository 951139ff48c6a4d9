"""Render the templates of the pages."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The HTML of a template of this folder. A value that is missing is an error.

    The filter `arrows` writes the arrows of texts for terminals as characters.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    """Made once: to compile the templates takes longer than to fill them in."""
    environment = Environment(
        loader=PackageLoader("regrow", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["arrows"] = lambda text: text.replace("->", "→")
    return environment
