"""The recipe: a model, data, and stages, as a user writes them.

Each key is one field with its type. From the types, `regrow.common.yaml_file` knows which keys
exist, which are booleans, and which are paths.
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

from regrow.common.fields import Number, Size, Strict
from regrow.corpus.reading import CONVERSATIONS, Reading
from regrow.corpus.sources import Source
from regrow.evaluation.heldout_text import HeldoutText
from regrow.evaluation.task_spec import TaskSpec
from regrow.objectives.registry import reads_conversations
from regrow.surgery.cut_spec import CutSpec
from regrow.training.settings import RecoverySettings

_RESERVED_NAMES = ("original", "control", "at-once")
"""Names that the ledger uses for other steps."""
HELDOUT = "heldout"
"""The name of the text that is put aside from `data.train`, if there is no held-out text."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{name!r} becomes a directory; use at most 64 letters from A to Z, digits, spaces, "
            "'.', '-' and '_', and begin with a letter or a digit"
        )
    return name


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a prompt without text; write one or leave it out")
    return text


Name = Annotated[str, AfterValidator(_plain_name)]
Prompt = Annotated[str, AfterValidator(_not_blank)]


Paths = Annotated[
    list[Path],
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    Field(min_length=1),
]


class StageData(Strict):
    """The conversations of a stage whose objective is `instructions`.

    Attributes:
        train: Files or directories of conversations to train on.
        heldout: Held-out conversations by name; the loss on their answers is measured. Without any,
            a part of `train` is put aside under the name of the stage, and not trained on.
    """

    train: Paths
    heldout: dict[str, Path] = Field(default={}, min_length=1)


class Stage(Strict):
    """A cut and the training that recovers from it; one of them may be missing.

    Attributes:
        name: Also the name of a directory: at most 64 letters from A to Z, digits, spaces, `.`, `-`
            and `_`. The names `original`, `control` and `at-once` are taken.
        cut: What to cut; None cuts nothing.
        recover: How to train; None trains nothing.
        data: The conversations of the objective `instructions`. Other objectives train on the text
            of the recipe.
    """

    name: Name
    cut: CutSpec | None = None
    recover: RecoverySettings | None = None
    data: StageData | None = None

    @property
    def learns_answers(self) -> bool:
        """Whether it is trained on conversations."""
        return self.recover is not None and reads_conversations(self.recover.objective)

    @property
    def alone_tokens(self) -> int:
        """Tokens that the cut trains each layer alone on, in all passes together."""
        cut = self.cut
        return 0 if cut is None else cut.refit_passes * cut.calibration_tokens

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cut is None and self.recover is None:
            raise ValueError("nothing to do; give cut, recover or both")
        if self.cut is not None and callable(self.cut.by):
            raise ValueError("cut.by: a function cannot be written down; a recipe names its score")
        if self.data is not None and not self.learns_answers:
            raise ValueError(
                "data: a stage trains on the text of the recipe, unless its objective is "
                "instructions; give recover: {objective: instructions}"
            )
        if self.cut is None and self._teacher == "previous":
            raise ValueError(
                "recover.distill: nothing is cut here, so the previous model is the student "
                "itself; give from: original"
            )
        return self

    @property
    def _teacher(self) -> str | None:
        """The teacher of the recovery: `original`, `previous`, or None."""
        distill = self.recover.distill if self.recover else None
        return distill.teacher if distill else None


def _kind_of_source(value: Any) -> str:
    return "source" if isinstance(value, dict | Source) else "path"


SourceOrPath = Annotated[
    Annotated[Source, Tag("source")] | Annotated[Path, Tag("path")],
    Discriminator(_kind_of_source),
]


class Data(Strict):
    """The texts of a recipe.

    Attributes:
        train: Sources or paths of the training text.
        heldout: Held-out texts by name; the loss is measured on each. Without any, a part of the
            training text is put aside and not trained on (`regrow.corpus.put_aside`).
        special_tokens: Whether the names of special tokens in the texts, such as `</s>`, stand for
            the tokens. Otherwise they are text.
        text_key: The key of the text in the lines of `.jsonl` files, and its column in `.parquet`.
    """

    train: Annotated[
        list[SourceOrPath],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
        Field(min_length=1),
    ]
    heldout: dict[str, Path] = Field(default={}, min_length=1)
    special_tokens: bool = Field(default=False, strict=True)
    text_key: str = Field(default="text", min_length=1)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The training text by domain; paths alone form one source, `train`."""
        if not any(isinstance(each, Source) for each in self.train):
            return (Source(name="train", path=[p for p in self.train if isinstance(p, Path)]),)
        return tuple(
            each if isinstance(each, Source) else Source.model_validate({"path": each})
            for each in self.train
        )

    @property
    def train_paths(self) -> list[Path]:
        """The files of all sources that exist before a run."""
        return [path for source in self.sources for path in source.paths]

    @property
    def written(self) -> Source | None:
        """The source whose text the original writes; None without one."""
        return next((source for source in self.sources if source.model is not None), None)

    def check_conversations(self) -> None:
        """Raise ValueError if a key has no meaning for conversations."""
        for source in self.sources:
            for key in ("model", "weight", "tokens"):
                if getattr(source, key) is not None:
                    raise ValueError(
                        f"train: {source.name}: {key}: has no meaning for conversations; leave it "
                        "out"
                    )
        for key, default in (("special_tokens", False), ("text_key", "text")):
            if getattr(self, key) != default:
                raise ValueError(f"{key}: has no meaning for conversations; leave it out")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sources = self.sources
        names = [source.name for source in sources]
        if sum(source.model is not None for source in sources) > 1:
            raise ValueError("train: two sources are written by the original; make them one")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"train: two sources are called {name!r}; give each a name")
        kinds = {(source.weight is None, source.share_tokens is None) for source in sources}
        if len(kinds) > 1 and any(source.model for source in sources):
            raise ValueError(
                "train: the tokens of a model are what it writes, not its share; give all sources "
                "a weight, or none of them weight or tokens for a share"
            )
        if len(kinds) > 1:
            raise ValueError("train: give all sources a weight, or all tokens, or none of them any")
        return self


class EvaluateSpec(TaskSpec):
    """Tasks on which the original and the result are evaluated.

    Attributes:
        stages: Whether the model of each stage is evaluated, not only that of the last one.
    """

    stages: bool = Field(default=False, strict=True)


class Recipe(Strict):
    """A recipe: a model, data, and stages.

    Attributes:
        name: The name of the run, and of its directory in `runs`, with the characters of the name
            of a stage.
        model: A directory, a GGUF file, or a hub id.
        seed: Decides random scores and data order.
        threads: CPU threads; None takes PyTorch's default.
        data: Training and held-out text.
        prompts: Prompts that the original and the model of each stage answer.
        answer_tokens: The largest number of tokens of an answer.
        evaluate: Tasks on which models are evaluated; None evaluates none.
        stages: Done in this order.

    If all stages learn answers and one has no `data` of its own, the texts of the recipe are
    conversations.
    """

    name: Name
    model: str
    seed: Number = 0
    threads: Size | None = None
    data: Data
    prompts: list[Prompt] = Field(default=[])
    answer_tokens: Size = 64
    evaluate: EvaluateSpec | None = None
    stages: list[Stage] = Field(min_length=1)

    @field_validator("stages")
    @classmethod
    def _distinct(cls, stages: list[Stage]) -> list[Stage]:
        names = [stage.name for stage in stages]
        for name in names:
            if names.count(name) > 1 or name in _RESERVED_NAMES:
                raise ValueError(f"the name {name!r} is taken; give each stage its own")
        for stage in takewhile(lambda stage: stage.cut is None, stages):
            if stage.recover is not None and stage.recover.distill is not None:
                raise ValueError(
                    f"{stage.name}: recover.distill: nothing is cut yet, so the original is the "
                    "student itself; leave distill out"
                )
        return stages

    @model_validator(mode="after")
    def _conversations_are_apart(self) -> Self:
        if self.reads_conversations:
            other = next(
                (s for s in self.stages if s.cut is not None or not s.learns_answers), None
            )
            stage = next(s for s in self.stages if s.learns_answers and s.data is None)
            if other is not None:
                raise ValueError(
                    f"stages: {stage.name}: instructions are learned from conversations, and "
                    f"{other.name} needs data.train as text; give data: {{train: ...}} in "
                    f"{stage.name}"
                )
            self.data.check_conversations()
        names = [*(self.data.heldout or (HELDOUT,))]
        for stage in self.stages:
            names += [] if stage.data is None else [*(stage.data.heldout or (stage.name,))]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"heldout: two texts are called {name!r}; give each its own name")
        return self

    @property
    def reads_conversations(self) -> bool:
        """Whether `data` holds conversations, and no text."""
        return any(stage.learns_answers and stage.data is None for stage in self.stages)

    @property
    def reading(self) -> Reading:
        """How the texts in `data` are read."""
        if self.reads_conversations:
            return CONVERSATIONS
        return Reading(self.data.text_key, self.data.special_tokens)

    @property
    def heldout(self) -> dict[str, HeldoutText]:
        """All held-out texts, by name; those of `data` come first."""
        found = self._own_heldout(None)
        for stage in self.stages:
            found |= self._own_heldout(stage.data)
        return found

    def heldout_of(self, stage: str) -> dict[str, HeldoutText]:
        """The held-out texts that the recovery of a stage should get better on.

        `stage`: for a name that is no stage, such as that of a comparison, the texts of `data`.
        """
        return self._own_heldout(self._data_of(stage))

    def _own_heldout(self, data: StageData | None) -> dict[str, HeldoutText]:
        paths, reading = (
            (self.data.heldout, self.reading) if data is None else (data.heldout, CONVERSATIONS)
        )
        return {name: HeldoutText(path, reading) for name, path in paths.items()}

    def _data_of(self, stage: str) -> StageData | None:
        return next((each.data for each in self.stages if each.name == stage), None)
