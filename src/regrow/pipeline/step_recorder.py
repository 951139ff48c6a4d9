"""Do each step of a run once, record it in the ledger, and report progress."""

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from regrow.common import environment
from regrow.common.progress import Progress, Update
from regrow.pipeline.ledger import Entry, Ledger, Step
from regrow.pipeline.time_left import Clock

if TYPE_CHECKING:
    from regrow.training.task import StepReport


_LONG_STEP = 5.0
"""Seconds from which a first training step says how fast the others will be."""


@dataclass(frozen=True)
class StepRecorder:
    """Records the steps of one run.

    Attributes:
        ledger: The ledger of the run.
        clock: Estimates the time left.
        progress: Where progress is reported.
        seed: The seed of the recipe, for the ledger.
    """

    ledger: Ledger
    clock: Clock
    progress: Progress
    seed: int

    def once(self, step: Step, doing: str, work: Callable[[], Mapping[str, Any]]) -> Entry | None:
        """Do `work` and record its outputs; None, without doing it, if the step is done already.

        The clock learns how long it took. `doing`: what the work is, for the progress; empty
        reports nothing.
        """
        if self.ledger.done(step) is not None:
            self.clock.finish(step.name)
            return None
        if doing:
            self.report(step.stage, doing)
        started = datetime.datetime.now(datetime.UTC).isoformat()
        began = time.monotonic()
        outputs = work()
        where = {
            "versions": environment.versions(),
            "machine": environment.machine(),
            "command": environment.command(),
            "seed": self.seed,
        }
        seconds = time.monotonic() - began
        entry = Entry(step.name, step.key, step.inputs, outputs, where, started, seconds)
        self.ledger.record(entry)
        self.clock.finish(step.name, seconds)
        return entry

    def report(self, stage: str, doing: str) -> None:
        """Report what is being done in a stage."""
        self.progress.update(self.state(stage, doing))

    def state(self, stage: str, doing: str) -> Update:
        """What is being done in a stage, with the time left of the run."""
        return Update(stage, doing, self.clock.share, self.clock.seconds_left)


class TrainingProgress:
    """Takes the reports of training steps, and updates the clock and the progress from them."""

    def __init__(
        self,
        recorder: StepRecorder,
        stage: str,
        flops_per_token: float,
        heldout_words: Callable[[float], str],
    ) -> None:
        """`heldout_words`: a held-out loss in nats per token, in words."""
        self._recorder, self._stage, self._flops_per_token = recorder, stage, flops_per_token
        self._reported: float | None = None
        self._tokens = 0
        self._heldout_words, self._heldout = heldout_words, ""

    def __call__(self, report: "StepReport") -> None:
        step, clock, work = f"{self._stage}/recover", self._recorder.clock, self._flops_per_token
        now = time.monotonic()
        if self._reported is None:
            # The first report may count tokens of an earlier process, and a short first step
            # mostly warms up.
            long = report.step_seconds >= _LONG_STEP
            clock.done(step, work * (report.tokens - report.step_tokens))
            clock.done(step, work * report.step_tokens, report.step_seconds if long else None)
        else:
            clock.done(step, work * (report.tokens - self._tokens), now - self._reported)
        self._reported, self._tokens = now, report.tokens
        if report.heldout is not None:
            self._heldout = self._heldout_words(report.heldout)
        state = self._recorder.state(self._stage, f"step {report.step:,} of {report.steps:,}")
        self._recorder.progress.update(
            replace(
                state, loss=report.loss,
                tokens_per_second=report.step_tokens / report.step_seconds,
                heldout=self._heldout,
            )
        )  # fmt: skip
