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
        tried: Whether layers of the model were tried; otherwise the time is a lower bound.
    """

    tokens: int
    seconds: float
    tried: bool

    def words(self) -> str:
        """Such as `about 3 h on this machine, at 420 tokens/s`."""
        about, at = ("about", "at") if self.tried else ("at least", "at most")
        speed = rate(self.tokens / self.seconds)
        return f"{about} {rough_duration(self.seconds)} on this machine, {at} {speed} tokens/s"


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


def rates_of_run(plan: RunPlan, ledger: Ledger, progress: Progress) -> Mapping[str, float]:
    """The rate of each kind of work in a run, for its clock.

    That of training is tried if trainings are left that take more than seconds. Then their time is
    also said.
    """
    stages = [
        step.stage
        for step in plan.steps.values()
        if step.kind == "recover" and plan.is_wanted(step) and ledger.done(step) is None
    ]
    time = _time_of_trainings(plan, stages, progress)
    if time is None:
        return GUESSED_RATES
    progress.say(f"training: {time.tokens:,} tokens, {time.words()}")
    if not time.tried:  # then it is a bound
        return GUESSED_RATES
    work = sum(plan.flops_per_token(stage) * plan.recovery(stage).tokens for stage in stages)
    return {**GUESSED_RATES, "train": work / time.seconds}


def _time_of_trainings(
    plan: RunPlan, stages: Sequence[str], progress: Progress
) -> TrainingTime | None:
    """The time of the recoveries of these stages of a run; None if it is not of interest."""
    settings = {stage: plan.recovery(stage) for stage in stages}
    original = plan.layouts["original"]
    layouts = {stage: plan.layouts.get(stage, original) for stage in stages}
    samples = {stage: mean_sample(settings[stage], layouts[stage])[1] for stage in stages}
    flops = sum(
        training_flops(layouts[stage], samples[stage], settings[stage].tokens) for stage in stages
    )
    if not stages:
        return None
    speed = speed_of(
        original, layouts[stages[0]].sizes, settings[stages[0]], flops, notify=progress.say
    )
    if speed is None:
        return None
    seconds = 0.0
    for stage in stages:
        taught = settings[stage].distill is not None
        teacher = plan.layouts.get(plan.teachers.get(stage, ""), original) if taught else None
        seconds += speed.seconds(layouts[stage], samples[stage], settings[stage].tokens, teacher)
    return TrainingTime(sum(each.tokens for each in settings.values()), seconds, speed.tried)
