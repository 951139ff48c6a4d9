"""What a user writes: a model, data, and stages."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from regrow.errors import UserError
from regrow.training.settings import RecoverySettings

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


def _number(value: Any) -> Any:
    """YAML reads 60_000 as a number, and 200k as text: refuse the second in words."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted")
    return value


Name = Annotated[str, AfterValidator(_plain_name)]
TextPath = Annotated[Path, AfterValidator(_stays_inside)]
Size = Annotated[int, BeforeValidator(_number), Field(gt=0)]
SizeByStack = Size | dict[str, Size]
"""What remains: one number, or one by stack (`{encoder: 10, decoder: 30}`)."""
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
        by: The score; None takes what measures best for each axis (layers by influence, widths by
            activation).
        calibration_tokens: Tokens of text that scores are computed on.
        cut: A cut file, in place of all of the above.
    """

    layers: SizeByStack | None = None
    drop_layers: str | dict[str, str] | None = None
    hidden: SizeByStack | None = None
    ffn: SizeByStack | None = None
    heads: SizeByStack | None = None
    kv_heads: SizeByStack | None = None
    vocab_size: Size | None = None
    by: ScoreName | None = None
    calibration_tokens: Size = 16_384
    cut: TextPath | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """The sizes that were given, by option."""
        names = (
            "layers", "drop_layers", "hidden", "ffn", "heads", "kv_heads", "vocab_size",
        )  # fmt: skip
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cut is not None and (self.chosen or self.by):
            raise ValueError("a cut file says all that is cut; leave the other options out")
        if self.cut is None and not self.chosen:
            raise ValueError(
                "nothing to cut; give layers, drop_layers, hidden, ffn, heads, kv_heads, "
                "vocab_size or cut"
            )
        if self.layers is not None and self.drop_layers is not None:
            raise ValueError("layers and drop_layers both say which layers go; give one")
        return self


class Stage(_Strict):
    """A cut, and the training that recovers from it."""

    name: Name
    cut: CutSpec
    recover: RecoverySettings | None = None


class Data(_Strict):
    """Texts: what is trained on, and what is measured by name."""

    train: TextPath | list[TextPath]
    heldout: dict[str, TextPath] = Field(min_length=1)

    @property
    def train_paths(self) -> list[Path]:
        return self.train if isinstance(self.train, list) else [self.train]


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
    model: str
    seed: int = Field(default=0, ge=0)
    threads: Size | None = None
    data: Data
    prompts: list[str] = []
    answer_tokens: Size = 64
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1 or name in ("original", "control"):
                raise ValueError(f"stages: the name {name!r} is taken; give each its own")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; relative paths in it are taken from its directory.

    Raises UserError with file, line and key at the first thing that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    return parse_recipe(text, path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """A recipe from its text; `path` is where it stands."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict) or root is None:
        raise UserError(f"{path}: a recipe has the keys {', '.join(Recipe.model_fields)}")
    lines = dict(_lines(root, (), path))
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(_explain(first, values, lines, path)) from None
    return _resolved(recipe, path.parent)


def _resolved(recipe: Recipe, directory: Path) -> Recipe:
    """The same with all paths made absolute or relative to the working directory."""
    stages = [
        stage.model_copy(
            update={"cut": stage.cut.model_copy(update={"cut": directory / stage.cut.cut})}
        )
        if stage.cut.cut
        else stage
        for stage in recipe.stages
    ]
    data = recipe.data.model_copy(
        update={
            "train": [directory / path for path in recipe.data.train_paths],
            "heldout": {name: directory / path for name, path in recipe.data.heldout.items()},
        }
    )
    model = recipe.model
    if not Path(model).is_absolute() and (directory / model).exists():
        model = str(directory / model)
    return recipe.model_copy(update={"data": data, "stages": stages, "model": model})


def _lines(node: Any, at: tuple[Any, ...], path: Path) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Line of each key; a key that stands twice is an error."""
    yield at, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise UserError(f"{path}:{key.start_mark.line + 1}: {key.value}: stands twice")
            seen.add(key.value)
            yield from _lines(value, (*at, key.value), path)
            yield (*at, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _lines(value, (*at, number), path)


def _explain(
    error: Any, values: Mapping[str, Any], lines: Mapping[tuple[Any, ...], int], path: Path
) -> str:
    where = tuple(part for part in error["loc"] if (part,) != ("function-after",))
    known = where
    while known and known not in lines:
        known = known[:-1]
    line = lines.get(known, 1)
    if error["type"] == "extra_forbidden":
        key = str(where[-1])
        near = difflib.get_close_matches(key, _known_keys(where[:-1]), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{path}:{line}: {_dotted(where)}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{path}:{line}: {_dotted(where)}: missing"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float) else ""
    if error["type"] == "value_error":
        shown = ""
    return f"{path}:{line}: {_dotted(known)}: {message[0].lower() + message[1:]}{shown}"


def _dotted(where: tuple[Any, ...]) -> str:
    return ".".join(map(str, where)) or "recipe"


def _known_keys(where: tuple[Any, ...]) -> list[str]:
    """Keys of the model at a place in the recipe."""
    models: dict[str, type[BaseModel]] = {
        "data": Data, "stages": Stage, "cut": CutSpec, "recover": RecoverySettings,
    }  # fmt: skip
    names = [part for part in where if isinstance(part, str)]
    return list((models.get(names[-1], Recipe) if names else Recipe).model_fields)
