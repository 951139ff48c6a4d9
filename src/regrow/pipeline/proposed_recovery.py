"""The recoveries that a plan proposes, and how long they take on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from regrow.architectures import Layout
from regrow.architectures.flops import training_flops
from regrow.common.numbers import count
from regrow.common.progress import QUIET, Progress
from regrow.pipeline.training_time import TrainingTime, speed_of
from regrow.surgery.plan import PlannedStage
from regrow.training.cost import mean_sample
from regrow.training.settings import RecoverySettings

TOKENS_PER_PARAMETER = 0.01
"""Tokens of recovery that a stage is given, for each parameter that remains.

A compromise (docs/plan.md): SmolLM2-135M at half its size got back 43% of what the cut cost on its
domain with 0.0015 tokens a parameter; the OpenBA-V2 report trains 0.8 to 184 tokens a parameter.
"""
_LEAST_TOKENS = 50_000
EMBEDDING_RATE = 0.3
"""SmolLM2-135M at half its size has 1.462 bits per byte (a mean of three texts) after 40,000 tokens
and 1.442 after 100,000. At the full rate it has 1.478 and 1.451 (docs/benchmarks.md, Quality).
"""


@dataclass(frozen=True)
class ProposedRecovery:
    """The recoveries of all stages.

    Attributes:
        tokens: Tokens of text, by stage.
        seconds: The estimated time, by stage; empty if it was not estimated.
        time: The time of all; None if it was not estimated.
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...] = ()
    time: TrainingTime | None = None

    def words(self) -> str:
        """A note that says how much is trained, and how long it takes."""
        found = f"recovery: {count(sum(self.tokens))} tokens, to edit in the recipe"
        return found if self.time is None else f"{found}; {self.time.words()}"


def propose_recovery(
    layout: Layout, stages: Sequence[PlannedStage], progress: Progress = QUIET
) -> ProposedRecovery:
    """The tokens of each stage, in proportion to its model, and their time on this machine.

    If the time is more than seconds, this tries layers of the model for some seconds.
    """
    settings = [
        RecoverySettings(tokens=_tokens(stage.parameters), embedding_rate=EMBEDDING_RATE)
        for stage in stages
    ]
    tokens = tuple(each.tokens for each in settings)
    layouts, sizes = [], dict[str, int]()
    for stage in stages:
        sizes |= stage.sizes
        layouts.append(layout.resized(sizes))
    samples = [mean_sample(each, layout)[1] for each in settings]
    work = list(zip(layouts, samples, tokens, strict=True))
    flops = sum(training_flops(after, sample, some) for after, sample, some in work)
    speed = speed_of(layout, layouts[0].sizes, settings[0], flops, notify=progress.say)
    if speed is None:
        return ProposedRecovery(tokens)
    seconds = tuple(speed.seconds(after, sample, some) for after, sample, some in work)
    return ProposedRecovery(tokens, seconds, TrainingTime(sum(tokens), sum(seconds), speed.tried))


def _tokens(parameters: int) -> int:
    """Tokens for a model of so many parameters, with two digits."""
    wanted = max(_LEAST_TOKENS, round(TOKENS_PER_PARAMETER * parameters))
    step = 10 ** (len(str(wanted)) - 2)
    return int(round(wanted / step) * step)
