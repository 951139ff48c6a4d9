"""The configuration of a build, as a user writes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from regrow.cleaning.config import Contamination
from regrow.common.errors import UserError
from regrow.common.fields import Fraction, PositiveNumber, Size, Strict, refuse_bool
from regrow.common.files import check_name, from_home
from regrow.common.yaml_file import map_paths, parse_yaml, read_yaml_text
from regrow.instructions.formats.columns import ColumnMap
from regrow.instructions.formats.registry import FORMATS
from regrow.instructions.tasks import check_task

Language = Literal["en", "zh"]
Form = Literal["messages", "encoder-decoder"]
FORMS: tuple[Form, ...] = ("messages", "encoder-decoder")


def _one_or_more(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _as_value_error(error: UserError) -> ValueError:
    return ValueError(str(error))


Paths = Annotated[list[Path], BeforeValidator(_one_or_more), Field(min_length=1)]
Place = Annotated[int, BeforeValidator(refuse_bool), Field(gt=0)]
Column = str | Place


class InstructionSource(Strict):
    """Where samples come from.

    Attributes:
        name: Names the source in reports; by default the first file without suffix.
        path: A file, a directory, a pattern such as `clue/*/train.json`, or a list of them.
        translation: The same text in the other language: lines with the same number, or records
            with the same `id`.
        format: The name of the format, where the file alone does not show it.
        task: The type of task. By default the format says it.
        columns: For each field of the task, the name or the number of its column; options can have
            several.
        labels: Words for the answers, or for the types of entities, by what the file has.
        language: Of the samples; by default that of each text.
        licence: As the model card of a result may need it.
        rate: The share of the mixture, in proportion to the other rates.
        cap: The most samples.
    """

    path: Paths
    name: str | None = Field(default=None, min_length=1)
    translation: Path | None = None
    format: str | None = None
    task: str | None = None
    columns: dict[str, Column | list[Column]] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    language: Language | None = None
    licence: str | None = None
    rate: PositiveNumber | None = None
    cap: Size | None = None

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is not None and value not in (*FORMATS, "flan"):
            raise ValueError(f"no format {value!r}; give one of {', '.join((*FORMATS, 'flan'))}")
        return value

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str | None) -> str | None:
        try:
            return value and check_task(value)
        except UserError as error:
            raise _as_value_error(error) from None

    @field_validator("labels", mode="before")
    @classmethod
    def _label_names(cls, value: Any) -> Any:
        """The labels with numbers as text, as they are found in a file."""
        if not isinstance(value, dict):
            return value
        if any(isinstance(key, bool) for key in value):
            raise ValueError("a label is read as true or false; put it in quotes")
        return {str(key) if isinstance(key, int) else key: each for key, each in value.items()}

    @model_validator(mode="after")
    def _fits_together(self) -> "InstructionSource":
        if self.columns and self.task is None:
            raise ValueError("columns: give the task too, whose fields they are")
        if self.columns and (self.format or self.translation):
            raise ValueError("columns: give either columns, or format, or translation")
        if self.columns:
            try:
                self.column_map.check()
            except UserError as error:
                raise _as_value_error(error) from None
        for key in ("format", "labels"):
            if self.translation is not None and getattr(self, key):
                raise ValueError(f"{key}: without effect on a translation; leave it out")
        if self.translation is not None and len(self.path) > 1:
            raise ValueError("translation: give one path, of the same text")
        return self

    @property
    def column_map(self) -> ColumnMap:
        assert self.task is not None
        return ColumnMap(self.task, self.columns, self.labels)

    @property
    def title(self) -> str:
        """The name, or what the first file is called."""
        return self.name or self.path[0].name.partition(".")[0] or self.path[0].name


class FewShot(Strict):
    """Examples before the question.

    Attributes:
        share: The share of the instructions with examples, of those that a template makes.
        most: The most examples; each number from 1 is equally frequent.
    """

    share: Fraction = 0.2
    most: Size = 3


class Instructions(Strict):
    """A mixture of instructions.

    Attributes:
        name: Names the result.
        model: A model whose tokenizer counts tokens: a directory or a hub id.
        prompt_tokens: The most tokens of a prompt, with what the model puts around it; for an
            encoder-decoder, those of its encoder. What is longer is dropped.
        answer_tokens: The most tokens of an answer.
        sources: Where samples come from.
        rows: The most instructions; by default as many as there are, or as the rates allow.
        task_caps: The most instructions by the task of their samples.
        few_shot: Examples before the question.
        templates: Files of templates of your own, beside those of regrow.
        heldout: The share that is put aside, whole subjects at a time.
        near_duplicates: A sample goes if it and an earlier one have so large a share of the n-grams
            of both in common (the Jaccard similarity); by default such samples stay.
        contamination: Evaluation sets that must not be in it.
        forms: The forms that are written.
        seed: Decides templates, examples, order, and what is taken.
    """

    name: str = Field(min_length=1)
    sources: Annotated[list[InstructionSource], Field(min_length=1, max_length=1_000)]
    model: str | None = None
    prompt_tokens: Size | None = None
    answer_tokens: Size | None = None
    rows: Size | None = None
    task_caps: dict[str, Size] = Field(default_factory=dict)
    few_shot: FewShot = FewShot()
    templates: Annotated[list[Path], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    heldout: Fraction = 0.01
    near_duplicates: Annotated[Fraction, Field(ge=0.3)] | None = None
    contamination: Contamination | None = None
    forms: Annotated[tuple[Form, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = FORMS
    seed: Annotated[int, BeforeValidator(refuse_bool), Field(ge=0)] = 0

    @field_validator("task_caps")
    @classmethod
    def _known_tasks(cls, value: dict[str, int]) -> dict[str, int]:
        try:
            for name in value:
                check_task(name)
        except UserError as error:
            raise _as_value_error(error) from None
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Instructions":
        for key in ("prompt_tokens", "answer_tokens"):
            if getattr(self, key) is not None and self.model is None:
                raise ValueError(f"{key}: give the model too, whose tokens they are")
        if len({source.rate is None for source in self.sources}) > 1:
            raise ValueError("rate: give all sources a rate, or none")
        names = [source.title for source in self.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"sources: two are called {twice!r}; give each a name")
        return self


def load_instructions(path: Path) -> Instructions:
    """Read a configuration. Relative paths in it are relative to its directory.

    Raises UserError, with file, line and key, at the first mistake.
    """
    text = read_yaml_text(path, "configuration")
    spec, _ = parse_yaml(text, path, Instructions, "configuration")
    # A source without a name is called after its path as it is written, so name it before that.
    sources = [each.model_copy(update={"name": each.title}) for each in spec.sources]
    resolved = map_paths(
        spec.model_copy(update={"sources": sources}), lambda each: path.parent / from_home(each)
    )
    assert isinstance(resolved, Instructions)
    model = resolved.model
    if model is not None and (path.parent / from_home(Path(model))).exists():
        resolved = resolved.model_copy(update={"model": str(path.parent / from_home(Path(model)))})
    return resolved


def files_of(paths: list[Path]) -> list[Path]:
    """The files that paths, directories and patterns stand for, each once, in sorted order.

    Names that begin with a dot are left out of directories.

    Raises UserError if a path stands for no file, or for one whose name is not UTF-8.
    """
    found: dict[Path, None] = {}
    for path in paths:
        files = sorted(_files(path))
        if not files:
            raise UserError(f"{path}: no such file")
        for file in files:
            check_name(file)
        found.update(dict.fromkeys(files))
    return [*found]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for file in path.rglob("*"):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                yield file
    elif path.is_file():
        yield path
    elif any(sign in str(path) for sign in "*?["):
        fixed = Path(*_before_pattern(path))
        pattern = str(path.relative_to(fixed))
        yield from (file for file in fixed.glob(pattern) if file.is_file())


def _before_pattern(path: Path) -> Iterator[str]:
    for part in path.parts:
        if any(sign in part for sign in "*?["):
            return
        yield part
