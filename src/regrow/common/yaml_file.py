"""Read a configuration from YAML; an error is one line with file, line and key."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from regrow.common.errors import UserError, one_line
from regrow.common.validation_errors import (
    Place,
    describe,
    dotted,
    first_error,
    models_in,
    near_key,
)

_MAX_BYTES = 1 << 20
_MAX_NODES = 10_000
_MAX_DEPTH = 20
_MAX_MESSAGE = 600
_LONGEST_NAME = 255
_LONGEST_PATH = 3_000
"""Bytes; the systems allow some 4,096, and the directory of the file is put before it."""

Spec = TypeVar("Spec", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """The file of a configuration.

    Attributes:
        path: The file.
        what: What it is, in words for errors: `recipe`.
        lines: The line of each key, by its place.
    """

    path: Path
    what: str
    lines: Mapping[Place, int]

    def where(self, at: Place) -> str:
        """A place as file, line and key."""
        known = self._known(at)
        return f"{self.path}:{self.lines[known]}: {dotted(known)}"

    def line(self, at: Place) -> int:
        """The line of a place, from 1."""
        return self.lines[self._known(at)]

    def explain(self, error: ValidationError, values: Any, kind: type[BaseModel]) -> str:
        """The first error as one line, with file, line and key."""
        at, wrong = first_error(error, values)
        where = f"{self.path}:{self.lines[self._known(at)]}: "
        if wrong["type"] == "extra_forbidden":
            found = f"{where}{dotted(at)}: unknown key{near_key(kind, at)}"
        elif wrong["type"] == "missing":
            found = f"{where}{dotted((*at, wrong['loc'][-1]))}: missing"
        else:
            found = f"{where}{dotted(at) or self.what}: {describe(wrong)}"
        return found[:_MAX_MESSAGE]

    def _known(self, at: Place) -> Place:
        """The part of a place that the file has; a list of one may be written without brackets."""
        while at not in self.lines:
            at = at[:-1]
        return at


def read_yaml_text(path: Path, what: str) -> str:
    """The text of a YAML file; `what`: it is, in words for errors: `recipe`.

    Raises UserError if it cannot be read, or is larger than 1 MB.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise UserError(f"{path}: larger than 1 MB, which is too much for a {what}")
        text = raw.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as text: {error.strerror or error}") from None
    return text.replace("\r\n", "\n")


def parse_yaml(
    text: str, path: Path, kind: type[Spec], what: str, parts: Collection[type[BaseModel]] = ()
) -> tuple[Spec, Source]:
    """What a YAML text says, with paths as they are written, and where it says it.

    Args:
        text: of the file.
        path: the file, for errors.
        kind: the pydantic model of its content.
        what: it is, in words for errors: `recipe`.
        parts: more models of what may stand in it, which the types of `kind` do not name.

    Raises UserError, with file, line and key, at the first mistake.
    """
    root = _compose(text, path, what)
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}:1: a {what} has the keys {', '.join(kind.model_fields)}")
    lines: dict[Place, int] = {}
    _find_lines(root, (), lines, _Rules(path, what, _boolean_keys(kind, *parts)))
    source = Source(path, what, lines)
    values = _construct(root, path)
    try:
        spec = kind.model_validate(values)
    except ValidationError as error:
        raise UserError(source.explain(error, values, kind)) from None
    for at, written in paths_in(spec):
        check_path(written, at, source)
    return spec, source


# Paths


def check_path(path: Path, at: Place, source: Source) -> None:
    """Raise UserError, with the place, if no file can have this path."""
    if problem := _path_problem(path):
        raise UserError(f"{source.where(at)}: {problem}")


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
    """Each path in a specification, or in a part of it, and its place."""
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


# The keys


def _all_models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A pydantic model and all models in its fields, recursively."""
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from _all_models(inner)


def _boolean_keys(*kinds: type[BaseModel]) -> frozenset[str]:
    """The keys whose value may be true or false."""
    return frozenset(
        name
        for kind in kinds
        for model in _all_models(kind)
        for name, field in model.model_fields.items()
        if bool in (field.annotation, *get_args(field.annotation))
    )


# Reading YAML


@dataclass(frozen=True)
class _Rules:
    """What the keys of a file are checked with."""

    path: Path
    what: str
    boolean_keys: Collection[str]


class _TooMuchError(Exception):
    """There are more nodes than in a configuration; the argument is the line."""


class _Loader(yaml.SafeLoader):
    """Stops early: PyYAML needs a minute for 200,000 keys."""

    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > 2 * _MAX_NODES:  # keys are nodes too
            raise _TooMuchError(self.line + 1)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _compose(text: str, path: Path, what: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except _TooMuchError as error:
        raise UserError(f"{path}:{error}: too much of it for a {what}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UserError(f"{path}{line}: not YAML: {one_line(problem)}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a {what}") from None
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


def _find_lines(node: yaml.Node, at: Place, lines: dict[Place, int], rules: _Rules) -> None:
    """Store the line of each key in `lines`. Raises UserError if a key is repeated."""
    line, path = node.start_mark.line + 1, rules.path
    lines.setdefault(at, line)
    if len(at) > _MAX_DEPTH or len(lines) > _MAX_NODES:
        raise UserError(f"{path}:{line}: nested too deeply, or too much of it, for a {rules.what}")
    if node.tag == "tag:yaml.org,2002:bool" and (not at or at[-1] not in rules.boolean_keys):
        # pydantic would take it as 0 or 1. YAML 1.1 reads words such as no and on as booleans.
        problem = f"{node.value!r} is read as true or false; put it in quotes if text is meant"
        raise UserError(f"{path}:{line}: {dotted(at)}: {problem}")
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(
                    f"{path}:{line}: {dotted(at) or rules.what}: a key must be plain text"
                )
            if key.value in seen:
                raise UserError(f"{path}:{line}: {dotted((*at, key.value))}: stands twice")
            seen.add(key.value)
            lines[(*at, key.value)] = line
            _find_lines(value, (*at, key.value), lines, rules)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _find_lines(value, (*at, number), lines, rules)
