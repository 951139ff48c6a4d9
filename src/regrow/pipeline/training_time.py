"""How long trainings take on this machine, before any begins."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from regrow.architectures import Layout
from regrow.architectures.flops import SampleShape, training_flops
from regrow.common.numbers import rate, rough_duration
from regrow.common.progress import QUIET, Progress
from regrow.pipeline.ledger import Ledger
from regrow.pipeline.recipe import Stage
from regrow.pipeline.run_plan import RunPlan
from regrow.pipeline.stage_layouts import StageLayouts
from regrow.pipeline.time_left import GUESSED_RATES
from regrow.scoring.calibration import ROW_LENGTH
from regrow.training.cost import mean_sample
from regrow.training.settings import RecoverySettings
from regrow.training.speed import measure_speed

if TYPE_CHECKING:
    from regrow.training.speed import Speed

_LEAST_FLOPS = 1e12
"""Trainings with fewer operations take seconds on any machine, so their time is not of interest."""

_TURNED = 1.25
"""How many times as long the training of a layer takes if its updates follow the directions of its
inputs, as measured on SmolLM2-135M. Matrices with many inputs have no directions."""


@dataclass(frozen=True)
class StageTraining:
    """What a stage trains.

    Attributes:
        layout: The layout after its cut.
        settings: Of its recovery; None without one.
        sample: The mean sample of its recovery; None takes that of the settings.
        alone_tokens: Tokens that its cut trains each layer alone on, in all passes together.
        teacher: The layout of the teacher of its recovery; None without one.
    """

    layout: Layout
    settings: RecoverySettings | None = None
    sample: SampleShape | None = None
    alone_tokens: int = 0
    teacher: Layout | None = None

    @property
    def recovered_sample(self) -> SampleShape | None:
        """The mean sample of its recovery; None without one."""
        if self.settings is None:
            return None
        return self.sample or mean_sample(self.settings, self.layout)[1]

    @property
    def tokens(self) -> int:
        """Tokens of its recovery."""
        return self.settings.tokens if self.settings else 0

    @property
    def flops(self) -> int:
        """About the floating-point operations, without those of a teacher."""
        alone = training_flops(self.layout, _row(self.layout), self.alone_tokens)
        sample = self.recovered_sample
        return alone if sample is None else alone + training_flops(self.layout, sample, self.tokens)

    def time(self, speed: "Speed", on_cpu: "Speed") -> "StageTime":
        """The time at the speed of trainings, and at that of the CPU, which computes cuts."""
        from regrow.surgery.refitting.layer_training import STEP_TOKENS

        sample, recovery = self.recovered_sample, 0.0
        if sample is not None:
            recovery = speed.seconds(self.layout, sample, self.tokens, self.teacher)
        if not self.alone_tokens:  # without layers, a blueprint has no hidden size either
            return StageTime(recovery, 0.0)
        alone = on_cpu.seconds_of_layers(self.layout, _row(self.layout), self.alone_tokens)
        width = max(self.layout.sizes[name] for name in self.layout.streams)
        return StageTime(recovery, alone * (_TURNED if width <= STEP_TOKENS else 1.0))


def training_of(
    stage: Stage, layouts: StageLayouts, sample: SampleShape | None = None
) -> StageTraining:
    """What a stage of a recipe trains; `sample`: as in `StageTraining`."""
    return StageTraining(layouts.after, stage.recover, sample, stage.alone_tokens, layouts.teacher)


def _row(layout: Layout) -> SampleShape:
    """The mean sample of the rows on which layers are trained alone."""
    return mean_sample(RecoverySettings(row_length=ROW_LENGTH), layout)[1]


@dataclass(frozen=True)
class StageTime:
    """The estimated seconds of a stage.

    Attributes:
        recovery: Of its recovery; 0 without one.
        alone: In which its cut trains each layer alone (`refit_passes`), on the CPU.
    """

    recovery: float
    alone: float


@dataclass(frozen=True)
class TrainingTime:
    """The time of some trainings.

    Attributes:
        tokens: Tokens of text of their recoveries.
        stages: The time of each stage.
        tried: Whether layers of the model were tried; otherwise the times are lower bounds.
    """

    tokens: int
    stages: tuple[StageTime, ...]
    tried: bool

    @property
    def seconds(self) -> float:
        """Of all recoveries."""
        return sum(stage.recovery for stage in self.stages)

    @property
    def alone(self) -> float:
        """Of all cuts that train layers alone."""
        return sum(stage.alone for stage in self.stages)

    def words(self) -> str:
        """Such as `about 3 h on this machine, at 420 tokens/s`."""
        about, at = ("about", "at") if self.tried else ("at least", "at most")
        found = []
        if self.tokens:
            speed = rate(self.tokens / self.seconds)
            whole = rough_duration(self.seconds)
            found.append(f"{about} {whole} on this machine, {at} {speed} tokens/s")
        if self.alone:
            found.append(f"{about} {rough_duration(self.alone)} in which cuts train single layers")
        return "; ".join(found)


def speed_of(
    original: Layout,
    sizes: Mapping[str, int],
    settings: RecoverySettings,
    flops: float,
    threads: int | None = None,
    notify: Callable[[str], None] = QUIET.say,
    *,
    on_cpu: bool = False,
) -> "Speed | None":
    """The speed of this machine; None if it is not of interest, or if several machines train.

    `original`: the layout of the original. `sizes`: those of the model that is trained, by axis.
    `flops`: the operations of all trainings. `threads`: CPU threads; None takes as many as now.
    `notify`: gets a line before it is tried. `on_cpu`: also if there is a GPU.
    """
    if flops < _LEAST_FLOPS or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    import torch

    notify("trying how fast this machine trains" + (" on its CPU" if on_cpu else ""))
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return measure_speed(original, sizes, settings, on_cpu=on_cpu)
    finally:
        torch.set_num_threads(before)


def time_of(
    original: Layout,
    stages: Sequence[StageTraining],
    threads: int | None = None,
    notify: Callable[[str], None] = QUIET.say,
) -> TrainingTime | None:
    """The time of the trainings of some stages; None as in :func:`speed_of`, which see."""
    flops = sum(stage.flops for stage in stages)
    if not flops:
        return None
    first = next((stage for stage in stages if stage.settings is not None), stages[0])
    settings = first.settings or RecoverySettings(row_length=ROW_LENGTH)
    how = (original, first.layout.sizes, settings, flops, threads, notify)
    recovers, has_gpu = first.settings is not None, _has_gpu()
    speed = speed_of(*how, on_cpu=has_gpu and not recovers)
    if speed is None:
        return None
    cpu = speed
    if recovers and has_gpu and any(stage.alone_tokens for stage in stages):
        cpu = speed_of(*how, on_cpu=True) or speed
    times = tuple(stage.time(speed, cpu) for stage in stages)
    tokens = sum(stage.tokens for stage in stages)
    return TrainingTime(tokens, times, speed.tried and cpu.tried)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def rates_of_run(plan: RunPlan, ledger: Ledger, progress: Progress) -> Mapping[str, float]:
    """The rate of each kind of work in a run, for its clock.

    That of training is tried if trainings are left that take more than seconds. Then their time is
    also said.
    """
    left = [
        step for step in plan.steps.values() if plan.is_wanted(step) and ledger.done(step) is None
    ]
    recovered = [step.stage for step in left if step.kind == "recover"]
    cut = [step.stage for step in left if step.kind == "carve"]
    trainings = []
    for name in dict.fromkeys((*recovered, *cut)):
        training = training_of(plan.stages[name].spec, plan.stages[name].layouts)
        if name not in cut:
            training = replace(training, alone_tokens=0)
        if name not in recovered:
            training = replace(training, settings=None, teacher=None)
        trainings.append(training)
    time = time_of(plan.original.layout, trainings, notify=progress.say)
    if time is None:
        return GUESSED_RATES
    of = f"{time.tokens:,} tokens, " if time.tokens else ""
    progress.say(f"training: {of}{time.words()}")
    if not time.tried or not recovered:  # then it is a bound, or nothing is recovered
        return GUESSED_RATES
    stages = [plan.stages[name] for name in recovered]
    work = sum(stage.flops_per_token * stage.recovery.tokens for stage in stages)
    return {**GUESSED_RATES, "train": work / time.seconds}
