"""Read a recipe from YAML, or say in one line what is wrong with it, and where."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from regrow.common.errors import UserError, one_line
from regrow.common.files import from_home
from regrow.common.validation_errors import Place, describe, dotted, first_error
from regrow.pipeline.recipe import Recipe

_MOST_NODES = 10_000
_DEEPEST = 20


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; relative paths in it are taken from its directory.

    Raises UserError with file, line and key at the first thing that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as text: {error.strerror or error}") from None
    return parse_recipe(text, path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """A recipe from its text; `path` is where it stands."""
    root = _composed(text, path)
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}:1: a recipe has the keys {', '.join(Recipe.model_fields)}")
    lines: dict[Place, int] = {}
    _find_lines(root, (), lines, path)
    values = _constructed(root, path)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(_explained(error, values, lines, path)) from None
    return _located(recipe, path)


# Where its files are


def _located(recipe: Recipe, path: Path) -> Recipe:
    """The same with all paths taken from the directory of the recipe, and ~ from home."""

    def found(named: Path) -> Path:
        return path.parent / from_home(named)

    model = recipe.model
    if not from_home(Path(model)).is_absolute() and (
        (path.parent / model).exists() or not _may_be_hub_id(model)
    ):
        model = str(path.parent / model)
    # A source is called after its path, as the recipe has it.
    data = recipe.data.model_copy(update={"train": [*recipe.data.sources]})
    located = _with_paths(recipe.model_copy(update={"data": data}), found)
    assert isinstance(located, Recipe)
    return located.model_copy(update={"model": model})


def _with_paths(value: Any, found: Callable[[Path], Path]) -> Any:
    """The same with `found` applied to each path in it."""
    if isinstance(value, Path):
        return found(value)
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: _with_paths(each, found) for name, each in fields.items()}
        return value.model_copy(update={n: new for n, new in changed.items() if new != fields[n]})
    if isinstance(value, dict):
        return {key: _with_paths(each, found) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_paths(each, found) for each in value)
    return value


def _may_be_hub_id(model: str) -> bool:
    """As `owner/name[@revision]`, and not as `./name` or `owner/name.gguf`."""
    owner, slash, name = model.partition("@")[0].partition("/")
    return bool(slash) and "/" not in name and owner[:1] not in ".~" and not name.endswith(".gguf")


# Which keys there are


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type may hold, itself or inside a list, a dict or a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _all_models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from _all_models(inner)


_TRUTHS = {
    (name,)
    for model in _all_models(Recipe)
    for name, field in model.model_fields.items()
    if field.annotation in (bool, bool | None)
}
"""Keys that are true or false."""


def _known_keys(at: Place) -> list[str]:
    """Keys of the model at a place in the recipe."""
    model: type[BaseModel] = Recipe
    for part in at:
        field = model.model_fields.get(str(part))
        inner = next(_models_in(field.annotation), None) if field is not None else None
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


# Reading YAML


def _composed(text: str, path: Path) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UserError(f"{path}{line}: not YAML: {one_line(problem)}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a recipe") from None
    return node


def _constructed(node: yaml.Node, path: Path) -> Any:
    """Values of a node. PyYAML raises what it likes at scalars such as the date 2024-13-01."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or node.start_mark
        raise UserError(f"{path}:{mark.line + 1}: {one_line(error.problem or '')}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        if isinstance(node, yaml.CollectionNode):
            for child in node.value:
                for part in child if isinstance(child, tuple) else (child,):
                    _constructed(part, path)
        raise UserError(
            f"{path}:{node.start_mark.line + 1}: cannot be read as a value: "
            f"{one_line(str(error))}; put it in quotes if text is meant"
        ) from None


def _find_lines(node: yaml.Node, at: Place, lines: dict[Place, int], path: Path) -> None:
    """The line of each key; a key that stands twice is an error."""
    line = node.start_mark.line + 1
    lines.setdefault(at, line)
    if len(at) > _DEEPEST or len(lines) > _MOST_NODES:
        raise UserError(f"{path}:{line}: nested too deeply, or too much of it, for a recipe")
    if node.tag == "tag:yaml.org,2002:bool" and at[-1:] not in _TRUTHS:
        # It would pass as 0 or 1.
        wanted = f"{node.value!r} is read as true or false; put it in quotes if text is meant"
        raise UserError(f"{path}:{line}: {dotted(at)}: {wanted}")
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(
                    f"{path}:{line}: {dotted(at) or 'recipe'}: a key must be plain text"
                )
            if key.value in seen:
                raise UserError(f"{path}:{line}: {dotted((*at, key.value))}: stands twice")
            seen.add(key.value)
            lines[(*at, key.value)] = line
            _find_lines(value, (*at, key.value), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _find_lines(value, (*at, number), lines, path)


# Saying what is wrong


def _explained(error: ValidationError, values: Any, lines: Mapping[Place, int], path: Path) -> str:
    at, wrong = first_error(error, values)
    known = at
    while known not in lines:
        known = known[:-1]
    where = f"{path}:{lines[known]}: "
    if wrong["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(at[-1]), _known_keys(at[:-1]), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{where}{dotted(at)}: unknown key{hint}"
    if wrong["type"] == "missing":
        return f"{where}{dotted((*at, wrong['loc'][-1]))}: missing"
    return f"{where}{dotted(at) or 'recipe'}: {describe(wrong)}"
