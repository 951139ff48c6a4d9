"""Read a recipe from YAML; an error is one line with file, line and key."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from regrow.common.errors import UserError, one_line
from regrow.common.files import from_home
from regrow.common.validation_errors import (
    Place,
    describe,
    dotted,
    first_error,
    models_in,
    near_key,
)
from regrow.pipeline.recipe import EvaluateSpec, Recipe

_MAX_BYTES = 1 << 20
_MAX_NODES = 10_000
_MAX_DEPTH = 20
_MAX_MESSAGE = 600
_LONGEST_NAME = 255
_LONGEST_PATH = 3_000
"""Bytes; the systems allow some 4,096, and the directory of the recipe is put before it."""


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Relative paths in it are relative to its directory.

    Raises UserError, with file, line and key, at the first mistake.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise UserError(f"{path}: larger than 1 MB, which is too much for a recipe")
        text = raw.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as text: {error.strerror or error}") from None
    return parse_recipe(text.replace("\r\n", "\n"), path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """Parse the text of a recipe; `path` is its file. Raises as `load_recipe`."""
    root = _compose(text, path)
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}:1: a recipe has the keys {', '.join(Recipe.model_fields)}")
    lines: dict[Place, int] = {}
    _find_lines(root, (), lines, path)
    values = _construct(root, path)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, values, lines, path)[:_MAX_MESSAGE]) from None
    for at, written in [(("model",), Path(recipe.model)), *paths_in(recipe)]:
        if problem := _path_problem(written):
            raise UserError(f"{_where(at, lines, path)}: {problem}")
    return _resolve_paths(recipe, path)


# Paths


def _resolve_paths(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with all paths relative to its directory resolved, and ~ expanded."""

    def resolve(written: Path) -> Path:
        return path.parent / from_home(written)

    model = recipe.model
    if not from_home(Path(model)).is_absolute() and (
        (path.parent / model).exists() or not _may_be_hub_id(model)
    ):
        model = str(path.parent / model)
    # A source without a name is called after its path as it is written, so name it before that.
    data = recipe.data.model_copy(update={"train": [*recipe.data.sources]})
    resolved = map_paths(recipe.model_copy(update={"data": data}), resolve)
    assert isinstance(resolved, Recipe)
    return resolved.model_copy(update={"model": model, "evaluate": _evaluate(resolved, resolve)})


def _evaluate(recipe: Recipe, resolve: Callable[[Path], Path]) -> EvaluateSpec | None:
    """The evaluation of a recipe, with the files of its tasks resolved."""
    if recipe.evaluate is None:
        return None
    tasks = tuple(
        str(resolve(Path(name))) if name.endswith((".yaml", ".yml")) else name
        for name in recipe.evaluate.tasks
    )
    return recipe.evaluate.model_copy(update={"tasks": tasks})


def _path_problem(path: Path) -> str | None:
    """Why no file can have this path; None if one can."""
    try:
        names = [os.fsencode(part) for part in path.parts]
    except UnicodeEncodeError:
        return f"{str(path)!r} is not Unicode text"
    if any(len(name) > _LONGEST_NAME or b"\0" in name for name in names):
        return f"{str(path)[:60]!r}... is no name of a file"
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"{str(path)[:60]!r}... is too long for a path"
    return None


def paths_in(value: Any, at: Place = ()) -> Iterator[tuple[Place, Path]]:
    """Each path in a recipe, or in a part of it, and its place; not that of the model."""
    if isinstance(value, Path):
        yield at, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from paths_in(getattr(value, name), (*at, name))
    elif isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(each, (*at, key))


def map_paths(value: Any, resolve: Callable[[Path], Path]) -> Any:
    """A copy of the value with `resolve` applied to each path in it."""
    if isinstance(value, Path):
        return resolve(value)
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: map_paths(each, resolve) for name, each in fields.items()}
        return value.model_copy(update={n: new for n, new in changed.items() if new != fields[n]})
    if isinstance(value, dict):
        return {key: map_paths(each, resolve) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_paths(each, resolve) for each in value)
    return value


def _may_be_hub_id(model: str) -> bool:
    """Whether a model looks like `owner/name[@revision]`, not `./name` or `owner/name.gguf`."""
    owner, slash, name = model.partition("@")[0].partition("/")
    return bool(slash) and "/" not in name and owner[:1] not in ".~" and not name.endswith(".gguf")


# The keys of the recipe


def _all_models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A pydantic model and all models in its fields, recursively."""
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from _all_models(inner)


_BOOLEAN_KEYS = {
    (name,)
    for model in _all_models(Recipe)
    for name, field in model.model_fields.items()
    if field.annotation in (bool, bool | None)
}
"""Keys whose value is true or false."""


# Reading YAML


class _TooMuchError(Exception):
    """There are more nodes than in a recipe; the argument is the line."""


class _Loader(yaml.SafeLoader):
    """Stops early: PyYAML needs a minute for 200,000 keys."""

    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > 2 * _MAX_NODES:  # keys are nodes too
            raise _TooMuchError(self.line + 1)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _compose(text: str, path: Path) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except _TooMuchError as error:
        raise UserError(f"{path}:{error}: too much of it for a recipe") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UserError(f"{path}{line}: not YAML: {one_line(problem)}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a recipe") from None
    except ValueError as error:  # a version of YAML with more digits than Python converts
        raise UserError(f"{path}: not YAML: {one_line(str(error))}") from None
    return node


def _construct(node: yaml.Node, path: Path) -> Any:
    """The value of a node.

    PyYAML raises errors of various types at scalars such as the date 2024-13-01. Raises UserError
    in their place, with the line.
    """
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
                    _construct(part, path)  # raises for the part that is wrong
        raise UserError(
            f"{path}:{node.start_mark.line + 1}: cannot be read as a value: "
            f"{one_line(str(error))}; put it in quotes if text is meant"
        ) from None


def _find_lines(node: yaml.Node, at: Place, lines: dict[Place, int], path: Path) -> None:
    """Store the line of each key in `lines`. Raises UserError if a key is repeated."""
    line = node.start_mark.line + 1
    lines.setdefault(at, line)
    if len(at) > _MAX_DEPTH or len(lines) > _MAX_NODES:
        raise UserError(f"{path}:{line}: nested too deeply, or too much of it, for a recipe")
    if node.tag == "tag:yaml.org,2002:bool" and at[-1:] not in _BOOLEAN_KEYS:
        # pydantic would take it as 0 or 1. YAML 1.1 reads words such as no and on as booleans.
        problem = f"{node.value!r} is read as true or false; put it in quotes if text is meant"
        raise UserError(f"{path}:{line}: {dotted(at)}: {problem}")
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


# Errors


def _known(at: Place, lines: Mapping[Place, int]) -> Place:
    """The part of a place that the file has; a list of one may be written without brackets."""
    while at not in lines:
        at = at[:-1]
    return at


def _where(at: Place, lines: Mapping[Place, int], path: Path) -> str:
    """A place as file, line and key."""
    known = _known(at, lines)
    return f"{path}:{lines[known]}: {dotted(known)}"


def _explain(error: ValidationError, values: Any, lines: Mapping[Place, int], path: Path) -> str:
    """The first error as one line, with file, line and key."""
    at, wrong = first_error(error, values)
    where = f"{path}:{lines[_known(at, lines)]}: "
    if wrong["type"] == "extra_forbidden":
        return f"{where}{dotted(at)}: unknown key{near_key(Recipe, at)}"
    if wrong["type"] == "missing":
        return f"{where}{dotted((*at, wrong['loc'][-1]))}: missing"
    return f"{where}{dotted(at) or 'recipe'}: {describe(wrong)}"
