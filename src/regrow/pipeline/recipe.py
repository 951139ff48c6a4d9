"""What a user writes: a model, data, and stages."""

import difflib
import re
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from regrow.common.errors import UserError, one_line
from regrow.common.fields import Size, Strict, TextPath, no_truth, stays_inside
from regrow.common.files import from_home
from regrow.common.validation_errors import Place, dotted, first_error, said
from regrow.corpus.sources import Source
from regrow.surgery.cut_spec import CutSpec
from regrow.training.distill_settings import DistillSettings
from regrow.training.mixing.mixture_settings import MixtureSettings
from regrow.training.settings import RecoverySettings
from regrow.vocabulary.vocabulary_spec import VocabularySpec

_TAKEN = ("original", "control", "at-once", "result")
"""What the ledger calls its other steps."""
_MOST_NODES = 10_000
_DEEPEST = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} becomes a directory; use letters, digits, '.', '-' and '_'")
    return name


def stays_inside_or_hub(model: str) -> str:
    stays_inside(Path(model))
    return model


def _some_text(text: str) -> str:
    if not text.strip():
        raise ValueError("a prompt without text; write one or leave it out")
    return text


Name = Annotated[str, AfterValidator(_plain_name)]
Prompt = Annotated[str, AfterValidator(_some_text)]
ModelName = Annotated[str, AfterValidator(stays_inside_or_hub)]


class Stage(Strict):
    """A cut, and the training that recovers from it; either may be left out."""

    name: Name
    cut: CutSpec | None = None
    recover: RecoverySettings | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.cut is None and self.recover is None:
            raise ValueError("nothing to do; give cut, recover or both")
        if self.cut is not None and callable(self.cut.by):
            raise ValueError("cut.by: a function cannot be written down; a recipe names its score")
        if self.cut is None and self._teacher == "previous":
            raise ValueError(
                "recover.distill: nothing is cut here, so the previous model is the student "
                "itself; give from: original"
            )
        return self

    @property
    def _teacher(self) -> str | None:
        """Whom the recovery learns from."""
        distill = self.recover.distill if self.recover else None
        return distill.teacher if distill else None


def _kind_of_source(value: Any) -> str:
    return "source" if isinstance(value, dict | Source) else "path"


SourceOrPath = Annotated[
    Annotated[Source, Tag("source")] | Annotated[TextPath, Tag("path")],
    Discriminator(_kind_of_source),
]


class Data(Strict):
    """Texts: what is trained on, and what is measured by name."""

    train: Annotated[
        list[SourceOrPath],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
        Field(min_length=1),
    ]
    heldout: dict[str, TextPath] = Field(min_length=1)

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is trained on, by domain; paths alone are one."""
        if not any(isinstance(each, Source) for each in self.train):
            return (Source(name="train", path=[p for p in self.train if isinstance(p, Path)]),)
        return tuple(
            each if isinstance(each, Source) else Source.model_validate({"path": each})
            for each in self.train
        )

    @property
    def train_paths(self) -> list[Path]:
        return [path for source in self.sources for path in source.paths]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sources = self.sources
        names = [source.name for source in sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"train: two sources are called {name!r}; give each a name")
        kinds = {(source.weight is None, source.tokens is None) for source in sources}
        if len(kinds) > 1:
            raise ValueError("train: give all sources a weight, or all tokens, or none of them any")
        return self


class Recipe(Strict):
    """A run: a model, data, and stages.

    Attributes:
        model: A directory, a GGUF file, or a hub id.
        seed: Decides random scores and data order.
        threads: Threads of the CPU; None takes what there are.
        prompts: Answered by the original and by the result, in the report.
        answer_tokens: Longest answer to a prompt, in tokens.
    """

    name: Name
    model: ModelName
    seed: Annotated[int, BeforeValidator(no_truth), Field(ge=0)] = 0
    threads: Size | None = None
    data: Data
    prompts: list[Prompt] = Field(default=[])
    answer_tokens: Size = 64
    stages: list[Stage] = Field(min_length=1)

    @field_validator("stages")
    @classmethod
    def _distinct(cls, stages: list[Stage]) -> list[Stage]:
        names = [stage.name for stage in stages]
        for name in names:
            if names.count(name) > 1 or name in _TAKEN:
                raise ValueError(f"the name {name!r} is taken; give each stage its own")
        for stage in takewhile(lambda stage: stage.cut is None, stages):
            if stage.recover is not None and stage.recover.distill is not None:
                raise ValueError(
                    f"{stage.name}: recover.distill: nothing is cut yet, so the original is the "
                    "student itself; leave distill out"
                )
        return stages


_TRUTHS = {
    (name,)
    for model in (Recipe, Data, Stage, CutSpec, VocabularySpec, RecoverySettings)
    for name, field in model.model_fields.items()
    if field.annotation in (bool, bool | None)
}
"""Keys that are true or false."""


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
    return _resolved(recipe, path)


def _resolved(recipe: Recipe, path: Path) -> Recipe:
    """The same with all paths taken from the directory of the recipe, and ~ from home."""

    def found(named: Path) -> Path:
        return path.parent / from_home(named)

    stages = [
        stage.model_copy(update={"cut": _resolved_cut(stage.cut, found)})
        if stage.cut is not None
        else stage
        for stage in recipe.stages
    ]
    data = recipe.data.model_copy(
        update={
            "train": [
                source.model_copy(update={"path": [found(each) for each in source.paths]})
                for source in recipe.data.sources
            ],
            "heldout": {name: found(text) for name, text in recipe.data.heldout.items()},
        }
    )
    model = recipe.model
    if not from_home(Path(model)).is_absolute() and (
        (path.parent / model).exists() or not _may_be_hub_id(model)
    ):
        model = str(path.parent / model)
    return recipe.model_copy(update={"data": data, "stages": stages, "model": model})


def _resolved_cut(cut: CutSpec, found: Callable[[Path], Path]) -> CutSpec:
    update: dict[str, Any] = {}
    if cut.cut is not None:
        update["cut"] = found(cut.cut)
    if cut.vocab is not None:
        paths = {name: found(path) for name, path in cut.vocab.paths.items()}
        update["vocab"] = cut.vocab.model_copy(update=paths)
    return cut.model_copy(update=update)


def _may_be_hub_id(model: str) -> bool:
    """As `owner/name[@revision]`, and not as `./name` or `owner/name.gguf`."""
    owner, slash, name = model.partition("@")[0].partition("/")
    return bool(slash) and "/" not in name and owner[:1] not in ".~" and not name.endswith(".gguf")


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
    return f"{where}{dotted(at) or 'recipe'}: {said(wrong)}"


def _known_keys(at: Place) -> list[str]:
    """Keys of the model at a place in the recipe."""
    models: dict[str, type[BaseModel]] = {
        "data": Data, "train": Source, "stages": Stage, "cut": CutSpec, "recover": RecoverySettings,
        "vocab": VocabularySpec,
        "denoisers": MixtureSettings, "domains": MixtureSettings,
        "distill": DistillSettings,
    }  # fmt: skip
    names = [part for part in at if isinstance(part, str)]
    fields = (models.get(names[-1], Recipe) if names else Recipe).model_fields
    return [field.alias or name for name, field in fields.items()]
