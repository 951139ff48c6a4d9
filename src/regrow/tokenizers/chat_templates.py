"""The tokens of the text that a chat template adds to every conversation.

They are kept. The model was trained on this text as these tokens; other tokens would be new to it
in every prompt.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError, one_line
from regrow.common.files import read_json_object, read_text
from regrow.models.loading import library_errors
from regrow.tokenizers.chat_rendering import LARGEST_TEMPLATE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ROLES = ("system", "user", "assistant", "tool")
"""Roles that a template takes from the messages, so that it does not name them."""


def template_ids(directory: Path, tokenizer: "Tokenizer") -> list[int]:
    """The ids of the tokens of the text in the chat templates of a directory, in order.

    Each text of a template is encoded alone. A token that covers text of the template and of a
    message is not found.

    Raises:
        UserError: a template has a syntax error, is not UTF-8, or is larger than 1 MB.
    """
    found: dict[int, None] = {}
    for where, template in _templates(directory):
        for literal in (*_literals(template, where), *_ROLES):
            with library_errors(f"{where}: the tokenizer cannot encode its text"):
                found |= dict.fromkeys(tokenizer.encode(literal, add_special_tokens=False).ids)
    return list(found)


def has_template(directory: Path) -> bool:
    """Whether a directory has a chat template."""
    return next(_templates(directory), None) is not None


def _templates(directory: Path) -> Iterator[tuple[str, str]]:
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = directory / name
        value = read_json_object(path).get("chat_template") if path.is_file() else None
        if isinstance(value, str):
            yield f"{name}: chat_template", value
        for entry in value if isinstance(value, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                yield f"{name}: chat_template", entry["template"]
    for path in sorted([*directory.glob("*.jinja"), *directory.glob("*_chat_templates/*.jinja")]):
        yield path.name, read_text(path)


def _literals(template: str, where: str) -> Iterator[str]:
    """The text outside the tags of a template, and the strings inside them."""
    import jinja2

    if len(template) > LARGEST_TEMPLATE:
        raise UserError(f"{where}: larger than 1 MB, the most that is read of a template")
    # As transformers reads templates: without the line end behind a tag, and spaces before one.
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    lines: Iterator[tuple[int, str, Any]] = environment.lex(template)
    try:
        for _, kind, value in lines:
            if kind == "data":
                yield value
            elif kind == "string":
                yield _unescaped(value[1:-1])
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{where}: not a template: {one_line(error.message or '')}") from error


def _unescaped(text: str) -> str:
    """As jinja2 reads the inside of a string; as it is written, if that is no Unicode text."""
    try:
        read = text.encode("ascii", "backslashreplace").decode("unicode-escape")
        read.encode()
    except UnicodeError:
        return text
    return read
