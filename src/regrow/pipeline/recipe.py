"""What a user writes: a model, data, and stages.

Each key is declared once, as a field with its type. `regrow.pipeline.recipe_file` finds in the
types which keys there are, which of them are true or false, and which are paths.
"""

import re
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from regrow.common.fields import Size, Strict, TextPath, refuse_bool, stays_inside
from regrow.corpus.sources import Source
from regrow.surgery.cut_spec import CutSpec
from regrow.training.settings import RecoverySettings

_TAKEN = ("original", "control", "at-once", "result")
"""What the ledger calls its other steps."""
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
    seed: Annotated[int, BeforeValidator(refuse_bool), Field(ge=0)] = 0
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
