"""Do each step of a run once, record it in the ledger, and report progress."""

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regrow.common import environment
from regrow.common.progress import Progress, Update
from regrow.pipeline.ledger import Entry, Ledger, Step
from regrow.pipeline.time_left import Clock

if TYPE_CHECKING:
    from regrow.training.task import StepReport


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

        `doing`: what the work is, for the progress; empty reports nothing.
        """
        if self.ledger.done(step) is not None:
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
        return entry

    def report(
        self, stage: str, doing: str, *, loss: float | None = None, rate: float | None = None
    ) -> None:
        """Report what is being done in a stage.

        `loss`: of the last training step, in nats per token. `rate`: its tokens per second.
        """
        clock = self.clock
        self.progress.update(Update(stage, doing, clock.share, clock.seconds_left, loss, rate))


class TrainingProgress:
    """Takes the reports of training steps, and updates the clock and the progress from them."""

    def __init__(self, recorder: StepRecorder, stage: str, flops_per_token: float) -> None:
        self._recorder, self._stage, self._flops_per_token = recorder, stage, flops_per_token
        self._reported, self._tokens = time.monotonic(), 0

    def __call__(self, report: "StepReport") -> None:
        seconds, tokens = time.monotonic() - self._reported, report.tokens - self._tokens
        # After a resume, the first report counts tokens of an earlier process, so it has no rate.
        resumed = self._tokens == 0 and report.step > 1
        work = self._flops_per_token * tokens
        self._recorder.clock.done(f"{self._stage}/recover", work, None if resumed else seconds)
        self._reported, self._tokens = time.monotonic(), report.tokens
        doing = f"step {report.step:,} of {report.steps:,}"
        rate = None if resumed else tokens / seconds
        self._recorder.report(self._stage, doing, loss=report.loss, rate=rate)
