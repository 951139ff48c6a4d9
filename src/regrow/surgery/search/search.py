"""Search the sizes that meet a budget at the least loss, by what each axis costs when measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.surgery.budget import Budget, byte_budget
from regrow.surgery.fixed_costs import plan_sizes
from regrow.surgery.search.axes import SearchAxis, combined, search_axes
from regrow.surgery.search.candidates import Candidate, best_candidates, predicted_increase
from regrow.surgery.search.curves import CostCurve, cost_curve
from regrow.surgery.search.measure import (
    CalibrationDraw,
    Measurement,
    check_memory,
    is_begun,
    open_measurement,
)
from regrow.surgery.search.measured_cuts import MeasuredSpeed, Sizes
from regrow.surgery.search.speed import fit_speed
from regrow.surgery.search.text import read_search_text

_ATTEMPTS = 3
"""How often candidates of a wanted speed are searched."""
_MARGIN = 0.02
"""How much more speed than was missing is searched in the next attempt."""


@dataclass(frozen=True)
class SizeCost:
    """The loss if one axis alone is cut to one size.

    Attributes:
        size: Of the axis.
        sizes: By axis, if several are cut together.
        parameters: Of the whole model.
        bits_per_byte: On the held-back text.
    """

    size: int
    sizes: Mapping[str, int]
    parameters: int
    bits_per_byte: float


@dataclass(frozen=True)
class AxisCosts:
    """What an axis costs: `size` is that of the original; `cuts` go from large to small."""

    axis: str
    size: int
    cuts: tuple[SizeCost, ...]


@dataclass(frozen=True)
class MeasuredCandidate:
    """Sizes that meet the budget.

    Attributes:
        sizes: Of the axes that are cut, by axis.
        parameters, nbytes: Of the model.
        predicted: Bits per byte: those of the original, and what each axis costs alone.
        measured: Bits per byte of the cut model.
        fixed_costs: Whether it is what fixed costs propose, measured for comparison.
        predicted_tokens_per_second, tokens_per_second: The speed; None if the budget is another.
    """

    sizes: Mapping[str, int]
    parameters: int
    nbytes: int
    predicted: float
    measured: float
    fixed_costs: bool
    predicted_tokens_per_second: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class SizeSearch:
    """The measured costs, and the candidates, the best first.

    Attributes:
        original: Bits per byte of the original.
        characters: Of the text.
        held_back_bytes: Bytes of text that all losses are over.
        calibration_tokens: Tokens of text that cuts are chosen by and refitted on.
        axes: The costs of each axis.
        candidates: The first is the choice.
        tokens_per_second: Of the original; None if the budget is another.
        directory: Where the results are kept.
        measured_now: Cuts that were measured by this search, and not known before.
    """

    original: float
    characters: int
    held_back_bytes: int
    calibration_tokens: int
    axes: tuple[AxisCosts, ...]
    candidates: tuple[MeasuredCandidate, ...]
    tokens_per_second: float | None
    directory: Path
    measured_now: int


@dataclass(frozen=True)
class SearchRequest:
    """What is searched for.

    Attributes:
        budget: Of a search by parameters or bytes; None for one by speed.
        tokens_per_second: The least speed that is wanted; None for a budget.
        text: Files to calibrate and measure on.
        calibration: How cuts are chosen and refitted.
        candidates: Of the best predicted sizes, so many are measured.
        least: The smallest size that some axes may have, by axis.
        reading: How the files are read.
    """

    budget: Budget | None
    tokens_per_second: float | None
    text: Sequence[Path]
    calibration: CalibrationDraw
    candidates: int
    least: Mapping[str, int] = field(default_factory=dict)
    reading: Reading = PLAIN_TEXT


def search_sizes(model: ModelDirectory, request: SearchRequest, progress: Progress) -> SizeSearch:
    """Measure what each axis costs, and find the sizes with the least measured loss.

    Results are kept in the cache, by the model and the text. A search that was stopped continues,
    and another budget needs only its candidates measured.

    Raises UserError if the model cannot be measured, the text is too short, or nothing meets the
    budget; also if something is to measure and the model does not fit in memory.
    """
    text = read_search_text(request.text, request.calibration.tokens, request.reading)
    axes = search_axes(model.layout, request.least)
    if not axes:
        raise UserError(f"{model.path}: nothing of this model can be cut")
    if not is_begun(model, text, request.calibration):  # so nothing is written for it
        check_memory(
            model, request.calibration.tokens, speeds=request.tokens_per_second is not None
        )
    with open_measurement(model, text, request.calibration, progress) as measurement:
        return _Search(model, request, axes, measurement, progress).run()


def axis_costs(axis: SearchAxis, layout: Layout, measurement: Measurement) -> AxisCosts:
    """The losses if one axis alone is cut, at each of its probes."""
    probes = axis.probes()
    cuts = tuple(
        SizeCost(
            probe[axis.lead],
            probe,
            layout.parameters(combined(layout, [probe])),
            measured.bits_per_byte,
        )
        for probe, measured in zip(probes, measurement.losses(probes), strict=True)
    )
    return AxisCosts(axis.name, axis.whole, cuts)


class _Search:
    """One search."""

    def __init__(
        self,
        model: ModelDirectory,
        request: SearchRequest,
        axes: list[SearchAxis],
        measurement: Measurement,
        progress: Progress,
    ) -> None:
        self.model, self.request, self.axes = model, request, axes
        self.measurement, self.progress = measurement, progress
        self.layout: Layout = model.layout
        self.bytes: Callable[[Sizes], int] = byte_budget(model, 0).amount
        self.measured_now = 0
        self.memory_checked = False

    def run(self) -> SizeSearch:
        if self.request.budget is not None:
            # A budget that cannot be met is refused before anything is measured.
            free = [(axis, cost_curve([axis.share(axis.options[-1])], [0])) for axis in self.axes]
            best_candidates(self.layout, free, self.request.budget, 1)
        cuts: list[Sizes] = [{}, *(probe for axis in self.axes for probe in axis.probes())]
        missing = len(self.measurement.missing(cuts))
        if missing:
            self._check_memory()
            known = f" ({len(cuts) - missing} of them are known)" if missing < len(cuts) else ""
            self.progress.say(
                f"measuring the original and {len(cuts) - 1} cuts of one axis each{known}, then "
                f"the best candidates ({self.request.candidates}); results are kept in "
                f"{self.measurement.known.directory}"
            )
        self.measured_now += missing
        original, *_ = self.measurement.losses(cuts)
        costs = [self._cost(axis, original.bits_per_byte) for axis in self.axes]
        curves = [(axis, curve) for axis, (_, curve) in zip(self.axes, costs, strict=True)]
        speed = None
        if self.request.budget is not None:
            best = best_candidates(
                self.layout, curves, self.request.budget, self.request.candidates
            )
            found = self._measured(best, self.request.budget, curves, original.bits_per_byte)
        else:
            found, speed = self._fast_candidates(curves, original.bits_per_byte)
        return SizeSearch(
            original.bits_per_byte, self.measurement.text.characters,
            self.measurement.text.held_back_bytes,
            self.request.calibration.tokens, tuple(cost for cost, _ in costs),
            tuple(sorted(found, key=lambda c: c.measured)), speed,
            self.measurement.known.directory, self.measured_now,
        )  # fmt: skip

    def _check_memory(self) -> None:
        """Before the first measurement alone: later, this process itself holds memory."""
        if not self.memory_checked:
            request = self.request
            is_timed = request.tokens_per_second is not None
            check_memory(self.model, request.calibration.tokens, speeds=is_timed)
            self.memory_checked = True

    def _speeds(self, cuts: Sequence[Sizes]) -> list[MeasuredSpeed]:
        if self.measurement.missing_speeds(cuts):
            self._check_memory()
        return self.measurement.speeds(cuts)

    def _cost(self, axis: SearchAxis, original: float) -> tuple[AxisCosts, CostCurve]:
        costs = axis_costs(axis, self.layout, self.measurement)
        shares = [axis.share(cut.sizes) for cut in costs.cuts]
        return costs, cost_curve(shares, [cut.bits_per_byte - original for cut in costs.cuts])

    def _measured(
        self,
        best: Sequence[Candidate],
        budget: Budget,
        curves: Sequence[tuple[SearchAxis, CostCurve]],
        original: float,
    ) -> list[MeasuredCandidate]:
        """The best predicted sizes and those of fixed costs, measured."""
        fixed = self._fixed(budget)
        is_known = any(each.sizes == fixed for each in best)
        cuts = [each.sizes for each in best] + ([] if fixed is None or is_known else [fixed])
        missing = len(self.measurement.missing(cuts))
        if missing:
            self._check_memory()
            self.progress.say(f"measuring the best candidates ({missing})")
        self.measured_now += missing
        predicted = [original + each.increase for each in best]
        predicted += [
            original + predicted_increase(self.layout, curves, sizes) for sizes in cuts[len(best) :]
        ]
        return [
            MeasuredCandidate(
                cut.sizes, self.layout.parameters(cut.sizes), self.bytes(cut.sizes), expected,
                cut.bits_per_byte, cut.sizes == fixed,
            )
            for cut, expected in zip(self.measurement.losses(cuts), predicted, strict=True)
        ]  # fmt: skip

    def _fixed(self, budget: Budget) -> dict[str, int] | None:
        """The sizes that fixed costs propose; None if they find none that may be."""
        try:
            sizes = plan_sizes(self.layout, budget)
        except UserError:
            return None
        least = self.request.least
        return sizes if all(size >= least.get(name, 1) for name, size in sizes.items()) else None

    def _fast_candidates(
        self, curves: Sequence[tuple[SearchAxis, CostCurve]], original: float
    ) -> tuple[list[MeasuredCandidate], float]:
        """Measured candidates of at least the speed that is wanted, and the original's speed.

        The speed of a candidate is predicted, and then measured. If none is fast enough, the
        prediction is corrected by what was measured, and others are searched.
        """
        wanted = self.request.tokens_per_second
        assert wanted is not None
        smallest = [axis.probes()[-1] for axis in self.axes]
        speeds = self._speeds(smallest)
        whole = median(each.original for each in speeds)
        # Of each pair only the ratio counts: what slowed the machine down slowed both.
        times = [(each.sizes, whole * each.cut / each.original) for each in speeds]
        model = fit_speed(self.layout, [({}, whole), *times])
        Budget("tokens_per_second", 1 / wanted, model.at).check()
        factor, fastest = 1.0, 0.0
        for attempt in range(_ATTEMPTS):
            budget = Budget("tokens_per_second", 1 / wanted / factor, model.at)
            try:
                best_predicted = best_candidates(
                    self.layout, curves, budget, self.request.candidates
                )
            except UserError:
                if attempt == 0:
                    raise
                break
            candidates = self._measured(best_predicted, budget, curves, original)
            speeds = self._speeds([each.sizes for each in candidates])
            found = [
                replace(
                    candidate,
                    predicted_tokens_per_second=1 / model.at(candidate.sizes),
                    tokens_per_second=speed.original / speed.cut / whole,
                )
                for candidate, speed in zip(candidates, speeds, strict=True)
            ]
            reached = [each for each in found if (each.tokens_per_second or 0) >= wanted]
            if reached:
                return reached, 1 / whole
            best = max(each.tokens_per_second or 0 for each in found)
            fastest = max(fastest, best)
            factor *= (1 + _MARGIN) * wanted / best
        raise UserError(
            f"the fastest of the measured candidates writes {fastest:,.1f} tokens/s, and the "
            f"original {1 / whole:,.1f}; ask for less",
            key="tokens_per_second",
            value=f"{wanted:,.1f}",
        )
