"""The data of the report, as typed records without drawing."""

from datetime import datetime
from itertools import pairwise
from statistics import fmean
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, model_validator

from regrow.evaluation.speed import Speed

Unit = Literal["bits per byte", "nats per token"]
"""The unit of a loss."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Machine(_Record):
    """The machine of a run; `memory` in bytes, `products`: the type of matrix products."""

    cpu: str
    threads: NonNegativeInt
    memory: NonNegativeInt
    products: str | None = None


class Text(_Record):
    """A training or held-out text; `tokens` are counted with the tokenizer of the original.

    `put_aside`: which part of the training text a held-out text is; empty if it is a text of its
    own. `left_out`: which conversations are not used, and why; empty if all are.
    """

    name: str
    role: Literal["train", "heldout"]
    documents: NonNegativeInt | None = None
    tokens: NonNegativeInt | None = None
    sha256: str | None = None
    put_aside: str = ""
    left_out: str = ""


MOST_UNKNOWN = 0.001
"""The share of unknown tokens above which bits per byte are marked as not comparable."""


class Score(_Record):
    """How well one model predicts one text: `loss` in nats per token, and bits per byte.

    Loss can be compared only between models with one vocabulary, bits per byte always, unless the
    model need not predict a part of the text.
    """

    loss: float | None = None
    bits_per_byte: float | None = None
    unknown: float = 0.0
    """Unknown tokens, as a share of the tokens of the text."""
    lost: float = 0.0
    """Bytes that the tokens do not spell, as a share of the bytes of the text."""

    @property
    def is_comparable(self) -> bool:
        """Whether bits per byte can be compared with those of other models."""
        return self.unknown <= MOST_UNKNOWN


class ModelRow(_Record):
    """One model of the run.

    The scores of the original, which was neither cut nor recovered, are in `after_recovery`.
    `after_cut` and `after_recovery` map the name of a text to its score.
    """

    name: str
    role: Literal["original", "stage", "comparison"]
    note: str = ""
    """What the model is, if its name does not say it."""
    path: str = ""
    """Its directory inside the directory of the run; empty if it is not there (yet)."""
    parameters: NonNegativeInt
    parameters_by_part: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """embedding, attention, ffn, norms, head, ...; a tied head counts once, as embedding."""
    vocabulary: NonNegativeInt | None = None
    bytes_on_disk: NonNegativeInt | None = None
    speed: Speed | None = None
    """How fast it generates, beside the original."""
    after_cut: dict[str, Score] = Field(default_factory=dict)
    after_recovery: dict[str, Score] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_add_up(self) -> Self:
        total = sum(self.parameters_by_part.values())
        if self.parameters_by_part and total != self.parameters:
            raise ValueError(
                f"parameters_by_part of {self.name!r} adds up to {total}, not {self.parameters}"
            )
        return self


class KeptAxis(_Record):
    """The indices that a cut kept along one axis, as numbered in the model that was cut.

    Either `kept`, if the model or stack has one choice, or `kept_by_layer`, if each layer has its
    own. `layers` numbers these layers (by default 0, 1, 2, ...).
    """

    axis: str
    """For example 'layer', 'vocab', 'decoder.ffn'."""
    before: NonNegativeInt
    kept: tuple[NonNegativeInt, ...] | None = None
    kept_by_layer: tuple[tuple[NonNegativeInt, ...], ...] | None = None
    layers: tuple[NonNegativeInt, ...] | None = None

    @model_validator(mode="after")
    def _indices_fit(self) -> Self:
        if (self.kept is None) == (self.kept_by_layer is None):
            raise ValueError(f"{self.axis}: give kept or kept_by_layer, one of the two")
        for indices in self.rows:
            if any(a >= b for a, b in pairwise(indices)):
                raise ValueError(f"{self.axis}: kept indices must increase")
            if indices and indices[-1] >= self.before:
                raise ValueError(
                    f"{self.axis}: index {indices[-1]} is outside 0..{self.before - 1}"
                )
        if self.layers is not None and len(self.layers) != len(self.kept_by_layer or ()):
            raise ValueError(f"{self.axis}: layers must number the rows of kept_by_layer")
        return self

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The kept indices, one row per layer, or a single row."""
        return (self.kept,) if self.kept is not None else self.kept_by_layer or ()

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The number of the layer that each row of `kept_by_layer` belongs to."""
        return self.layers or tuple(range(len(self.kept_by_layer or ())))

    @property
    def sizes(self) -> tuple[int, int]:
        """The fewest and the most indices kept in a row."""
        counts = [len(row) for row in self.rows] or [0]
        return min(counts), max(counts)


class Seconds(_Record):
    """Wall-clock seconds by phase; None where the phase has not run."""

    score: NonNegativeFloat | None = None
    refit: NonNegativeFloat | None = None
    carve: NonNegativeFloat | None = None
    recover: NonNegativeFloat | None = None
    measure: NonNegativeFloat | None = None


class MixtureRow(_Record):
    """The mixture of a training whose shares followed held-out losses, in nats per token.

    `of`: the kind of component, `denoiser` or `domain`.
    """

    of: str
    shares: tuple[tuple[NonNegativeInt, dict[str, NonNegativeFloat]], ...]
    """(tokens trained so far, {name: share})"""
    losses: tuple[tuple[NonNegativeInt, dict[str, float]], ...] = ()
    """(tokens trained so far, {name: loss})"""
    references: dict[str, float] = Field(default_factory=dict)
    """The losses that the mixture tries to reach again, by name."""


class Outcome(_Record):
    """The held-out losses before and after a recovery.

    `texts`: (before, after the training) by text, in `unit`. `kept`: which weights the model of the
    stage has.
    """

    unit: Unit
    texts: dict[str, tuple[float, float]]
    kept: Literal["trained", "before"]

    @property
    def mean(self) -> tuple[float, float]:
        """The means over all texts, each of which counts the same."""
        before, after = zip(*self.texts.values(), strict=True)
        return fmean(before), fmean(after)

    @property
    def mean_is_worse(self) -> bool:
        """Whether the mean rose at all; also if it is not a number any more."""
        before, after = self.mean
        return not after <= before

    @property
    def better(self) -> tuple[str, ...]:
        """The texts whose loss fell by more than rounding to 3 decimals."""
        return tuple(text for text, (a, b) in self.texts.items() if round(b, 3) < round(a, 3))

    @property
    def worse(self) -> tuple[str, ...]:
        """The texts whose loss rose by more than rounding to 3 decimals, or is no number."""
        return tuple(text for text, (a, b) in self.texts.items() if is_worse(a, b))

    @property
    def unchanged(self) -> tuple[str, ...]:
        """All other texts."""
        return tuple(text for text in self.texts if text not in (*self.better, *self.worse))


def is_worse(before: float, after: float) -> bool:
    """Whether a loss rose by more than rounding to 3 decimals, or is no number any more."""
    return not round(after, 3) <= round(before, 3)


class HeldoutCurve(_Record):
    """The held-out losses from the beginning to the end of a recovery, by text, in `unit`.

    Each point is (tokens trained so far, loss).
    """

    unit: Unit
    texts: dict[str, tuple[tuple[NonNegativeInt, float], ...]]


class StageRow(_Record):
    """One stage: a cut and the training that recovers from it."""

    name: str
    done: bool = True
    cut: str = ""
    """What was cut, in one line: 'layers 30 -> 22, by influence'."""
    refitted: tuple[tuple[float, float], ...] = ()
    """(error of the residual stream with the carved, with the refitted weights), by matrix.

    Squared, relative to the square of the original's stream; in the order of the layers.
    """
    layers_trained: int = 0
    """Layers that were trained alone in the refit."""
    recovery: str = ""
    """How it was recovered, in one line."""
    outcome: Outcome | None = None
    """What the recovery did to the held-out losses; None if it is not known."""
    kept: tuple[KeptAxis, ...] = ()
    curve: tuple[tuple[NonNegativeInt, float], ...] = ()
    """(tokens trained so far, training loss in nats per predicted token)"""
    heldout: HeldoutCurve | None = None
    """None without a recovery."""
    mixtures: tuple[MixtureRow, ...] = ()
    seconds: Seconds = Seconds()
    warnings: tuple[str, ...] = ()


class Sample(_Record):
    """The answers of models to one prompt, by the name of the model."""

    prompt: str
    answers: dict[str, str] = Field(default_factory=dict)


class EvaluationRow(_Record):
    """One metric of one task, of the original and of the result.

    `low`, `high`: the 95% interval of the difference, from the same questions.
    """

    task: str
    metric: str
    before: float | None = None
    after: float | None = None
    low: float | None = None
    high: float | None = None


class QualityKept(_Record):
    """The share of the original's scores above chance that the result has.

    That is over all tasks on which the original is above chance beyond doubt; a group counts as one
    task. `interval`: the 95% confidence interval, by the paired bootstrap over the questions.
    """

    share: float
    interval: tuple[float, float] | None = None


class Loading(_Record):
    """How the model of the run is loaded.

    `path`: its directory, as seen from where the command was given. `own_code`: whether it brings
    its own modelling code.
    """

    path: str
    is_encoder_decoder: bool = False
    own_code: bool = False


class RunSummary(_Record):
    """All data of the report. Sections without data are left out of the page."""

    name: str
    loading: Loading | None = None
    """None before the run has a model."""
    command: str
    started: datetime
    seconds: NonNegativeFloat
    recipe_text: str = ""
    """The recipe as YAML."""
    versions: dict[str, str] = Field(default_factory=dict)
    machine: Machine | None = None
    hashes: dict[str, str] = Field(default_factory=dict)
    """Fingerprints of models by name: {'original': ..., 'depth': ...}"""
    texts: tuple[Text, ...] = ()
    models: tuple[ModelRow, ...] = ()
    stages: tuple[StageRow, ...] = ()
    predicts: tuple[Literal["every token", "what is taken out", "answers"], ...] = ()
    """The tokens that losses are over: all of a text, only the masked spans, or only the answers of
    conversations; several if the texts differ."""
    samples: tuple[Sample, ...] = ()
    evaluation: tuple[EvaluationRow, ...] = ()
    quality_kept: QualityKept | None = None

    @property
    def original(self) -> ModelRow | None:
        """The model that the run began with."""
        return next((row for row in self.models if row.role == "original"), None)

    @property
    def result(self) -> ModelRow | None:
        """The model of the last stage so far."""
        return next((row for row in reversed(self.models) if row.role == "stage"), None)

    @property
    def measured_texts(self) -> tuple[str, ...]:
        """The texts that any model has a score for, held-out texts first, in their order."""
        seen = dict.fromkeys(
            name for row in self.models for name in (*row.after_cut, *row.after_recovery)
        )
        declared = [text.name for text in self.texts if text.role == "heldout"]
        return tuple(dict.fromkeys([name for name in declared if name in seen] + list(seen)))

    @property
    def scores(self) -> tuple[Score, ...]:
        """Every score of every model."""
        return tuple(
            score
            for row in self.models
            for score in (*row.after_cut.values(), *row.after_recovery.values())
        )

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """The distinct vocabulary sizes of the models, in their order."""
        return tuple(dict.fromkeys(row.vocabulary for row in self.models if row.vocabulary))
