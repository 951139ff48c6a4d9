"""Write the reference pages in docs/ from the code: `python docs/generate.py`.

These are recipe.md, commands.md and cleaning-settings.md. The keys of a recipe and of the steps of
cleaning, their types and defaults come from the pydantic models, and what they do from the
docstrings of these models. Commands and options come from the command line itself. A test compares
the files with what this script would write.
"""

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from regrow.cleaning.quality_limits import ChineseLimits, Limits
from regrow.cleaning.steps import STEPS
from regrow.cli.app import app
from regrow.corpus.sources import Source
from regrow.pipeline.recipe import Data, EvaluateSpec, Recipe, Stage, StageData
from regrow.surgery.cut_spec import CutSpec
from regrow.training.distill_settings import DistillSettings
from regrow.training.lora_settings import LoraSettings
from regrow.training.mixing.mixture_settings import MixtureSettings
from regrow.training.settings import RecoverySettings
from regrow.vocabulary.vocabulary_spec import VocabularySpec

HERE = Path(__file__).parent
MODELS: Mapping[type[BaseModel], str] = {
    Recipe: "The recipe",
    Data: "`data`",
    Source: "A source in `data.train`",
    EvaluateSpec: "`evaluate`",
    Stage: "A stage in `stages`",
    StageData: "`data` of a stage",
    CutSpec: "`cut` of a stage",
    VocabularySpec: "`cut.vocab`",
    RecoverySettings: "`recover` of a stage",
    DistillSettings: "`recover.distill`",
    LoraSettings: "`recover.lora`",
    MixtureSettings: "`recover.denoisers` and `recover.domains`",
}
"""The heading of each part of a recipe."""
STEP_MODELS: Mapping[type[BaseModel], str] = {
    **{step: f"`{name}`" for name, step in sorted(STEPS.items())},
    Limits: "`quality.spaced`",
    ChineseLimits: "`quality.chinese`",
}
"""The heading of each step of cleaning, and of the keys in it."""
PYTHON_ONLY = re.compile(r" In Python it can also be a function\s+\(`[^`]*`\)\.")
"""Sentences of docstrings that do not hold in a recipe."""


def recipe_page() -> str:
    """The text of docs/recipe.md."""
    parts = [
        "# Recipe\n",
        "<!-- Written by docs/generate.py; change the docstrings of the code in its place. -->\n",
        "A recipe is a YAML file: a model, texts, and stages that cut and train. `regrow run` does "
        "what it says, and `regrow plan` proposes one. Keys without a default must be given. "
        "Relative paths start at the recipe's directory. Whole numbers may be written as `20_000`, "
        "`20K`, `1.5M` or `3.4B`. The default *none*, and None in the descriptions, mean that the "
        "key is left out, or is `null`, or `[]` if it is a list. (`None` would be a text in YAML.) "
        "An unknown key or a "
        "wrong value is an error with file, line and key, before any work starts.\n",
        "[Training](training.md), [objectives](objectives.md), [training text](corpus.md) and "
        "[vocabulary](vocabulary.md) explain more.\n",
    ]
    for model, heading in MODELS.items():
        parts += [f"## {heading}\n", *_table(model)]
    return "\n".join(parts)


def steps_page() -> str:
    """The text of docs/cleaning-settings.md."""
    parts = [
        "# Settings of the cleaning steps\n",
        "<!-- Written by docs/generate.py; change the docstrings of the code in its place. -->\n",
        "[Cleaning steps](cleaning-steps.md) explains what each step drops and changes, and says "
        "what was measured. A step is named alone, `- repair`, or with settings, "
        "`- repair: {blank_lines: 1}`.\n",
    ]
    for model, heading in STEP_MODELS.items():
        parts += [f"## {heading}\n", *_table(model)]
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> Iterator[str]:
    """A paragraph and a table of the keys of a model."""
    summary, words = _docstring(model)
    yield f"{summary}\n"
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        value = _value(field.annotation, field.metadata)
        described = words[name].replace("|", "\\|")
        yield f"| `{field.alias or name}` | {value} | {_default(field)} | {described} |"
    yield ""


def _docstring(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What comes before `Attributes:` in a docstring, and the words for each attribute."""
    head, _, body = (inspect.getdoc(model) or "").partition("\n\nAttributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", body.split("\n\n")[0]):
        names, _, words = entry.strip().partition(": ")
        text = PYTHON_ONLY.sub("", " ".join(words.split()))
        found |= {name.strip(): text for name in names.split(",")}
    base = model.__base__
    if base is not None and base is not BaseModel and issubclass(base, BaseModel):
        found = _docstring(base)[1] | found
    return " ".join(head.split()), found


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return ""
    if value in ([], (), None):
        return "none"
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple):
        return ", ".join(str(list(v)) if isinstance(v, tuple) else str(v) for v in value)
    return f"{value}"


def _value(annotation: Any, metadata: list[Any]) -> str:
    """What a key takes, in words."""
    kinds = dict.fromkeys(_kinds(annotation))
    bounds = _bounds([*metadata, *_metadata(annotation)])
    return " or ".join(kinds) + (f", {bounds}" if bounds else "")


def _metadata(annotation: Any) -> Iterator[Any]:
    """What `Annotated` says of a type, also inside of a union."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from annotation.__metadata__
        annotation = annotation.__origin__
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            yield from _metadata(each)


def _kinds(annotation: Any) -> Iterator[str]:
    """The kinds of value that a type allows, without None."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _kinds(inner[0])
    elif origin in (typing.Union, types.UnionType):
        for each in inner:
            if each is not type(None):
                yield from _kinds(each)
    elif origin is typing.Literal:
        yield ", ".join(f"`{each}`" for each in inner if each is not None)
    elif origin in (list, tuple):
        values = [" or ".join(_kinds(each)) for each in inner if each is not Ellipsis]
        yield "a list" if len(set(values)) > 1 else f"a list of {_plural(values[0])}"
    elif origin is dict:
        yield f"{_plural(' or '.join(_kinds(inner[1])))} by name"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        heading = {**MODELS, **STEP_MODELS}[annotation]
        yield f"keys ([below](#{_anchor(heading)}))"
    else:
        yield _PLAIN[annotation]


_PLAIN: Mapping[Any, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path",
}  # fmt: skip


def _plural(kind: str) -> str:
    words = {
        "text": "texts", "path": "paths", "whole number": "whole numbers", "number": "numbers",
        "a list": "lists",
    }  # fmt: skip
    return words.get(kind, kind)


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def _bounds(metadata: list[Any]) -> str:
    """Bounds in words: `above 0, at most 1`."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found: dict[str, str] = {}
    for each in metadata:
        for part in each.metadata if isinstance(each, FieldInfo) else [each]:
            if isinstance(part, annotated_types.BaseMetadata):
                for name, word in words.items():
                    if (bound := getattr(part, name, None)) is not None:
                        found[name] = f"{word} {bound:g}"
    if "ge" in found:
        found.pop("gt", None)
    return ", ".join(found[name] for name in words if name in found)


# Commands


def commands_page() -> str:
    """The text of docs/commands.md."""
    parts = [
        "# Commands\n",
        "<!-- Written by docs/generate.py; change the command line in its place. -->\n",
        "`regrow COMMAND --help` says the same. [Command line](command-line.md) explains what is "
        "common to all commands: numbers, texts, outputs, and commands that are started again.\n",
    ]
    for name, command in _commands(typer.main.get_command(app), "regrow"):
        parts += [f"## {name}\n", *_described(name, command)]
    return "\n".join(parts)


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """All commands that do something, with their full names."""
    inner = getattr(command, "commands", None)
    if not inner:
        yield name, command
        return
    for word, each in inner.items():
        if not each.hidden:
            yield from _commands(each, f"{name} {word}")


def _described(name: str, command: Any) -> Iterator[str]:
    """What a command does, how it is called, and its options."""
    signature = inspect.signature(command.callback).parameters
    arguments, rows = [], []
    for each in command.params:
        if getattr(each, "hidden", False):
            continue
        words = " ".join((getattr(each, "help", None) or "").split())
        if each.opts[0].startswith("-"):
            left = " / ".join([*each.opts, *each.secondary_opts])
            kind = (
                next(_kinds(signature[each.name].annotation), "") if each.name in signature else ""
            )
            metavar = each.metavar or ("" if each.is_flag else _METAVARS.get(kind, ""))
            left, right = f"{left} {metavar}".strip(), words + _option_default(each)
        else:
            left, right = each.metavar or each.name.upper(), words
            several = " ..." if each.nargs == -1 else ""
            arguments.append(left if each.required else f"[{left}{several}]")
        rows.append("| `{}` | {} |".format(left.replace("|", r"\|"), right.replace("|", r"\|")))
    yield f"{' '.join((command.help or '').split())}\n"
    yield f"```\n{' '.join([name, *arguments])} [OPTIONS]\n```\n"
    if rows:
        yield "| | |"
        yield "|---|---|"
        yield from rows
        yield ""


_METAVARS = {"path": "PATH", "whole number": "N", "number": "X", "text": "TEXT"}
"""What stands for the value of an option, by its kind."""


def _option_default(option: Any) -> str:
    """The default of an option, in brackets; empty if there is none to tell."""
    default, words = option.default, option.help or ""
    if option.required:
        return " [required]"
    if option.is_flag:
        return f" [default: {option.opts[0]}]" if default and option.secondary_opts else ""
    if default in (None, "", [], ()) or "default:" in words.lower():
        return ""
    return f" [default: {default}]"


PAGES = {
    "recipe.md": recipe_page, "commands.md": commands_page, "cleaning-settings.md": steps_page,
}  # fmt: skip

if __name__ == "__main__":
    for file, page in PAGES.items():
        (HERE / file).write_text(page(), encoding="utf-8")
