"""What a ledger holds of the steps of one stage, by kind, so that its readers can be found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from regrow.pipeline.task_steps import EVALUATE

Found = TypeVar("Found")


@dataclass(frozen=True)
class StageSteps(Generic[Found]):
    """The steps of one stage, or of the original; None for a step that is not done.

    Attributes:
        steps: The entries of a ledger by the name of the step, or the outputs in them.
        stage: The name of the stage, or `original`.
    """

    steps: Mapping[str, Found]
    stage: str

    @property
    def carve(self) -> Found | None:
        """Its cut."""
        return self._of_kind("carve")

    @property
    def measure_cut(self) -> Found | None:
        """The losses after its cut."""
        return self._of_kind("measure-cut")

    @property
    def recover(self) -> Found | None:
        """Its recovery."""
        return self._of_kind("recover")

    @property
    def measure(self) -> Found | None:
        """The losses after its recovery; of the original, its losses."""
        return self._of_kind("measure")

    @property
    def evaluate(self) -> Found | None:
        """The scores of its model on tasks."""
        return self._of_kind(EVALUATE)

    def _of_kind(self, kind: str) -> Found | None:
        return self.steps.get(f"{self.stage}/{kind}")
