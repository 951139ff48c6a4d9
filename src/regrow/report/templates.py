"""Render the templates of the pages."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The HTML of a template of this folder. A value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("regrow", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(**values)
