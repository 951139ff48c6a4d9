"""What a plan proposes to train after its cuts, on which text, and how long this takes here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.numbers import count
from regrow.common.progress import QUIET, Progress
from regrow.pipeline.plan_spec import PlanSpec
from regrow.pipeline.proposed_refit import ProposedRefit, propose_refit
from regrow.pipeline.training_time import StageTraining, TrainingTime, time_of
from regrow.surgery.plan import PlannedStage
from regrow.training.settings import RecoverySettings
from regrow.writing.text_writer import form_and_starts

TOKENS_PER_PARAMETER = 0.01
"""Tokens of recovery that a stage is given, for each parameter that remains.

A compromise (docs/plan.md): SmolLM2-135M at half its size got back 46% of what the cut cost on its
domain with 0.0013 tokens a parameter; the OpenBA-V2 report trains 0.8 to 184 tokens a parameter.
"""
_LEAST_TOKENS = 50_000
EMBEDDING_RATE = 0.3
"""SmolLM2-135M at half its size has 1.462 bits per byte (a mean of three texts) after 40,000 tokens
and 1.442 after 100,000. At the full rate it has 1.478 and 1.451 (docs/benchmarks.md, Quality).
"""
_OWN_SHARE = 4
"""One token of so many that are trained is text of the original: about as in the quickstart."""
_MOST_OWN = 200_000
"""As much as was measured (docs/benchmarks.md, Quality)."""
_REPEATS = 2
"""All recoveries together read the text of the original at most so many times."""
_MOST_REST = 1_000


@dataclass(frozen=True)
class OwnText:
    """Text that the original writes.

    Attributes:
        tokens: How many it writes; 0 writes none.
        rest: The weight of the user's text, where that of this text is 1.
        problem: Why a decoder writes none; None if it does.
    """

    tokens: int
    rest: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class ProposedTraining:
    """All that is trained.

    Attributes:
        tokens: Tokens of text of the recovery, by stage.
        refits: The refit of each stage's cut.
        own: The text that the original writes.
        time: The time of the recoveries, and of the layers that cuts train alone; None if it was
            not estimated.
    """

    tokens: tuple[int, ...]
    refits: tuple[ProposedRefit, ...]
    own: OwnText
    time: TrainingTime | None = None

    @property
    def seconds(self) -> tuple[float, ...]:
        """The estimated time of each recovery; empty if it was not estimated."""
        return () if self.time is None else tuple(each.recovery for each in self.time.stages)

    def notes(self) -> list[str]:
        """How much is trained, and how long it takes."""
        found = f"recovery: {count(sum(self.tokens))} tokens, to edit in the recipe"
        if self.time is not None:
            found = f"{found}; {self.time.words()}"
        notes = [found]
        if self.own.tokens:
            timed = "" if self.time is None else "; this is not in the times above"
            notes.append(f"the original first writes {count(self.own.tokens)} tokens{timed}")
        elif self.own.problem:
            notes.append(f"the original writes no text: {self.own.problem}")
        return notes


def propose_training(
    model: ModelDirectory,
    stages: Sequence[PlannedStage],
    spec: PlanSpec,
    characters: int | None,
    progress: Progress = QUIET,
) -> ProposedTraining:
    """The trainings of all stages, in proportion to their models.

    If their time is more than seconds, this tries layers of the model for some seconds.

    `characters`: of the text that the plan was measured on; None if nothing was measured.
    """
    layout = model.layout
    tokens = tuple(tokens_of_recovery(stage.parameters) for stage in stages)
    refits = tuple(
        propose_refit(layout, stage, trained, spec, characters)
        for stage, trained in zip(stages, tokens, strict=True)
    )
    trainings, sizes = [], dict[str, int]()
    for stage, trained, refit in zip(stages, tokens, refits, strict=True):
        sizes |= stage.sizes
        after = layout.resized(sizes)
        settings = RecoverySettings(tokens=trained, embedding_rate=EMBEDDING_RATE)
        trainings.append(StageTraining(after, settings, alone_tokens=refit.tokens * refit.passes))
    time = time_of(layout, trainings, notify=progress.say)
    return ProposedTraining(tokens, refits, own_text(model, sum(tokens)), time)


def own_text(model: ModelDirectory, recovery: int) -> OwnText:
    """The text that the original writes, for recoveries of so many tokens."""
    if model.layout.blueprint.is_encoder_decoder:
        return OwnText(0)
    try:
        form_and_starts(model, None)
    except UserError as error:
        return OwnText(0, problem=str(error))
    tokens = min(_two_digits(recovery // _OWN_SHARE), _MOST_OWN)
    rest = max(_OWN_SHARE, math.ceil(recovery / (_REPEATS * tokens))) - 1
    if rest > _MOST_REST:
        return OwnText(0, problem=f"it would be less than one token in {_MOST_REST:,}")
    return OwnText(tokens, rest)


def tokens_of_recovery(parameters: int) -> int:
    """Tokens for a model of so many parameters, with two digits."""
    return _two_digits(max(_LEAST_TOKENS, round(TOKENS_PER_PARAMETER * parameters)))


def _two_digits(wanted: int) -> int:
    step = 10 ** (len(str(wanted)) - 2)
    return int(round(wanted / step) * step)
