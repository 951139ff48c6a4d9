"""How long trainings take on this machine, before any begins."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regrow.architectures import Layout
from regrow.architectures.flops import training_flops
from regrow.common.numbers import rate, rough_duration
from regrow.common.progress import QUIET, Progress
from regrow.pipeline.ledger import Ledger
from regrow.pipeline.plan import RunPlan
from regrow.pipeline.time_left import GUESSED_RATES
from regrow.scoring.calibration import ROW_LENGTH
from regrow.surgery.cut_spec import CutSpec
from regrow.training.cost import mean_sample
from regrow.training.settings import RecoverySettings
from regrow.training.speed import measure_speed

if TYPE_CHECKING:
    from regrow.training.speed import Speed

_LEAST_FLOPS = 1e12
"""Trainings with fewer operations take seconds on any machine, so their time is not of interest."""


@dataclass(frozen=True)
class TrainingTime:
    """The time of some trainings.

    Attributes:
        tokens: Their tokens of text.
        seconds: The estimated time.
        tried: Whether layers of the model were tried; otherwise the times are lower bounds.
        alone: The estimated time in which cuts train each layer alone (`refit_passes`).
    """

    tokens: int
    seconds: float
    tried: bool
    alone: float = 0.0

    def words(self) -> str:
        """Such as `about 3 h on this machine, at 420 tokens/s`."""
        about, at = ("about", "at") if self.tried else ("at least", "at most")
        alone = f"{about} {rough_duration(self.alone)} to train layers alone"
        if not self.tokens:
            return f"{alone} on this machine"
        speed = rate(self.tokens / self.seconds)
        whole = f"{about} {rough_duration(self.seconds)} on this machine, {at} {speed} tokens/s"
        return f"{whole}; {alone} before" if self.alone else whole


def speed_of(
    original: Layout,
    sizes: Mapping[str, int],
    settings: RecoverySettings,
    flops: float,
    threads: int | None = None,
    notify: Callable[[str], None] = QUIET.say,
) -> "Speed | None":
    """The speed of this machine; None if it is not of interest, or if several machines train.

    `original`: the layout of the original. `sizes`: those of the model that is trained, by axis.
    `flops`: the operations of all trainings. `threads`: CPU threads; None takes as many as now.
    `notify`: gets a line before it is tried.
    """
    if flops < _LEAST_FLOPS or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    import torch

    notify("trying how fast this machine trains")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return measure_speed(original, sizes, settings)
    finally:
        torch.set_num_threads(before)


def seconds_alone(speed: "Speed", layout: Layout, cut: CutSpec | None) -> float:
    """The time in which a cut trains each layer alone; 0 if a GPU was tried, since cuts use none.

    `layout`: that after the cut.
    """
    import torch

    if cut is None or not cut.alone_tokens or torch.cuda.is_available():
        return 0.0
    _, sample = mean_sample(RecoverySettings(row_length=ROW_LENGTH), layout)
    return speed.seconds_of_layers(layout, sample, cut.alone_tokens)


def flops_alone(layout: Layout, cut: CutSpec | None) -> int:
    """About the operations of a cut that trains each layer alone."""
    if cut is None or not cut.alone_tokens:
        return 0
    _, sample = mean_sample(RecoverySettings(row_length=ROW_LENGTH), layout)
    return training_flops(layout, sample, cut.alone_tokens)


def rates_of_run(plan: RunPlan, ledger: Ledger, progress: Progress) -> Mapping[str, float]:
    """The rate of each kind of work in a run, for its clock.

    That of training is tried if trainings are left that take more than seconds. Then their time is
    also said.
    """
    left = [
        step for step in plan.steps.values() if plan.is_wanted(step) and ledger.done(step) is None
    ]
    stages = [step.stage for step in left if step.kind == "recover"]
    cuts = [step.stage for step in left if step.kind == "carve"]
    time = _time_of_trainings(plan, stages, cuts, progress)
    if time is None:
        return GUESSED_RATES
    of = f"{time.tokens:,} tokens, " if time.tokens else ""
    progress.say(f"training: {of}{time.words()}")
    if not time.tried or not stages:  # then it is a bound, or there is nothing to divide
        return GUESSED_RATES
    work = sum(plan.flops_per_token(stage) * plan.recovery(stage).tokens for stage in stages)
    return {**GUESSED_RATES, "train": work / time.seconds}


def _time_of_trainings(
    plan: RunPlan, stages: Sequence[str], cuts: Sequence[str], progress: Progress
) -> TrainingTime | None:
    """The time of the recoveries of some stages of a run, and of the layers that cuts train alone.

    None if it is not of interest.
    """
    settings = {stage: plan.recovery(stage) for stage in stages}
    original = plan.layouts["original"]
    layouts = {stage: plan.layouts.get(stage, original) for stage in [*stages, *cuts]}
    samples = {stage: mean_sample(settings[stage], layouts[stage])[1] for stage in stages}
    made = {stage: plan.stages[stage].cut for stage in cuts}
    flops = sum(
        training_flops(layouts[stage], samples[stage], settings[stage].tokens) for stage in stages
    ) + sum(flops_alone(layouts[stage], cut) for stage, cut in made.items())
    if not flops:
        return None
    first = next(iter(layouts))
    tried = settings.get(first, RecoverySettings(row_length=ROW_LENGTH))
    speed = speed_of(original, layouts[first].sizes, tried, flops, notify=progress.say)
    if speed is None:
        return None
    seconds = 0.0
    for stage in stages:
        taught = settings[stage].distill is not None
        teacher = plan.layouts.get(plan.teachers.get(stage, ""), original) if taught else None
        seconds += speed.seconds(layouts[stage], samples[stage], settings[stage].tokens, teacher)
    alone = sum(seconds_alone(speed, layouts[stage], cut) for stage, cut in made.items())
    tokens = sum(each.tokens for each in settings.values())
    return TrainingTime(tokens, seconds, speed.tried, alone)
