"""What a user writes: a model, data, and stages."""

import difflib
import re
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from regrow.errors import UserError
from regrow.files import from_home
from regrow.training.distill_settings import DistillSettings
from regrow.training.mixture_settings import MixtureSettings
from regrow.training.settings import RecoverySettings
from regrow.vocabulary.spec import VocabularySpec
from regrow.wording import Place, dotted, first_error, one_line, said

_TAKEN = ("original", "control", "at-once", "result")
"""What the ledger calls its other steps."""
_MOST_NODES = 10_000
_DEEPEST = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} becomes a directory; use letters, digits, '.', '-' and '_'")
    return name


def _stays_inside(path: Path) -> Path:
    if not path.is_absolute() and ".." in path.parts:
        raise ValueError(
            f"{path} leaves the directory of the recipe; write an absolute path if that is meant"
        )
    return path


def _stays_inside_or_hub(model: str) -> str:
    _stays_inside(Path(model))
    return model


def _no_truth(value: Any) -> Any:
    """True would pass as 1."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")
    return value


def _ranges(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _some_text(text: str) -> str:
    if not text.strip():
        raise ValueError("a prompt without text; write one or leave it out")
    return text


Name = Annotated[str, AfterValidator(_plain_name)]
TextPath = Annotated[Path, AfterValidator(_stays_inside)]
Prompt = Annotated[str, AfterValidator(_some_text)]
Size = Annotated[int, BeforeValidator(_no_truth), Field(gt=0)]
SizeByStack = Size | dict[str, Size]
"""What remains: one number, or one by stack (`{encoder: 10, decoder: 30}`)."""
Layers = Annotated[str, BeforeValidator(_ranges)]
"""Numbers from 0: `12-15,20`; a single one is a number in YAML."""
ModelName = Annotated[str, AfterValidator(_stays_inside_or_hub)]
ScoreName = Literal["random", "activation", "influence"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CutSpec(_Strict):
    """How much to cut, and by which score. Sizes say what remains.

    Attributes:
        layers: Layers that remain, chosen by score.
        drop_layers: Layers to drop, by number from 0: `12-15,20`.
        hidden, ffn, heads, kv_heads: Sizes that remain.
        vocab_size: Tokens that remain, by count in the text.
        vocab: In place of that, how the tokens that remain are chosen.
        by: The score; None takes influence for layers and activation for widths, the best of
            these (docs/benchmarks.md).
        calibration_tokens: Tokens of text that scores are computed on.
        cut: A cut file, in place of all of the above.
    """

    layers: SizeByStack | None = None
    drop_layers: Layers | dict[str, Layers] | None = None
    hidden: SizeByStack | None = None
    ffn: SizeByStack | None = None
    heads: SizeByStack | None = None
    kv_heads: SizeByStack | None = None
    vocab_size: Size | None = None
    vocab: VocabularySpec | None = None
    by: ScoreName | None = None
    calibration_tokens: Size = 16_384
    cut: TextPath | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """The sizes that were given, by option."""
        names = ("layers", "drop_layers", "hidden", "ffn", "heads", "kv_heads")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        size = self.vocabulary.size if self.vocabulary else None
        return found if size is None else {**found, "vocab_size": size}

    @property
    def vocabulary(self) -> VocabularySpec | None:
        """How the tokens that remain are chosen; None where the vocabulary is not cut."""
        return self.vocab if self.vocab_size is None else VocabularySpec(size=self.vocab_size)

    @field_validator("vocab")
    @classmethod
    def _sized(cls, vocab: VocabularySpec | None) -> VocabularySpec | None:
        if vocab is not None:
            if (vocab.size, vocab.coverage, vocab.plan) == (None, None, None):
                raise ValueError("how many tokens remain is not said; give size, coverage or plan")
            for path in vocab.paths.values():
                _stays_inside(path)
        return vocab

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.vocab_size is not None and self.vocab is not None:
            raise ValueError("vocab_size and vocab both say which tokens remain; give one")
        if self.cut is not None and (self.chosen or self.by or self.vocab):
            raise ValueError("a cut file says all that is cut; leave the other options out")
        if self.cut is None and not self.chosen and self.vocab is None:
            raise ValueError(
                "nothing to cut; give layers, drop_layers, hidden, ffn, heads, kv_heads, "
                "vocab_size, vocab or cut"
            )
        if self.layers is not None and self.drop_layers is not None:
            raise ValueError("layers and drop_layers both say which layers go; give one")
        return self


class Stage(_Strict):
    """A cut, and the training that recovers from it; either may be left out."""

    name: Name
    cut: CutSpec | None = None
    recover: RecoverySettings | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.cut is None and self.recover is None:
            raise ValueError("nothing to do; give cut, recover or both")
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


class Source(_Strict):
    """A domain of the training text.

    Attributes:
        name: Of the domain; by default as the first path is called, without suffixes.
        path: Text files and token stores.
        weight: Its share of the samples, relative to the weights of the others.
        tokens: Its share of the tokens, relative to those of the others.
    """

    name: str = Field(min_length=1)
    path: TextPath | list[TextPath]
    weight: Annotated[
        float | None, BeforeValidator(_no_truth), Field(gt=0, allow_inf_nan=False)
    ] = None
    tokens: Size | None = None

    @property
    def paths(self) -> list[Path]:
        return self.path if isinstance(self.path, list) else [self.path]

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "name" in values:
            return values
        path = values.get("path")
        first = path[0] if isinstance(path, list) and path else path
        name = Path(first).name.partition(".")[0] if isinstance(first, str | Path) else ""
        return {"name": name or str(first), **values}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.paths:
            raise ValueError("no path; give at least one")
        if self.weight is not None and self.tokens is not None:
            raise ValueError("weight and tokens both say how much; give one")
        return self


def _kind_of_source(value: Any) -> str:
    return "source" if isinstance(value, dict | Source) else "path"


SourceOrPath = Annotated[
    Annotated[Source, Tag("source")] | Annotated[TextPath, Tag("path")],
    Discriminator(_kind_of_source),
]


class Data(_Strict):
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


class Recipe(_Strict):
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
    seed: Annotated[int, BeforeValidator(_no_truth), Field(ge=0)] = 0
    threads: Size | None = None
    data: Data
    prompts: list[Prompt] = []
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
