"""A cut that was chosen and checked, and how its result is written: rotate, refit, carve."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.progress import QUIET, Progress
from regrow.common.publishing import workplace
from regrow.cuts.cut import Cut
from regrow.surgery.carve import CarvePlan, carve, with_corrections
from regrow.surgery.refitting.disk import refit_bytes
from regrow.surgery.result_files import left_out, notes, plan_output

if TYPE_CHECKING:
    from regrow.scoring.calibration import Calibration
    from regrow.surgery.refitting.layer_fit import FittedMatrix
    from regrow.surgery.refitting.refit import Refit
    from regrow.surgery.rotation import Rotation


@dataclass(frozen=True)
class Pruned:
    """The result of a cut, or of a dry run: the model before and after."""

    source: Path
    out: Path
    cut: Cut
    parameters_before: int
    parameters: int
    parts_before: Mapping[str, int]
    parts: Mapping[str, int]
    sizes_before: Mapping[str, int]
    nbytes: int
    """Bytes of all files of the result."""
    notes: tuple[str, ...]
    """Further effects that a user should know: scaled tensors, dropped tensors, files left out."""
    seconds: float
    """Time to carve, from the first byte read to the final rename; 0 in a dry run."""
    refitted: "tuple[FittedMatrix, ...]"
    """The matrices that were refitted; empty in a dry run, and if the cut is not refitted."""
    refit_seconds: float
    """Time to refit, with the copy that is carved for it; 0 without a refit."""


@dataclass(frozen=True)
class PreparedCut:
    """A cut that was chosen and checked, and the plan of the files that it writes.

    `calibration`: the text for a rotation and a refit; None if neither is done. `refits`: whether
    the cut is refitted. `refit_passes`: over the text, in which each layer is then trained alone.
    """

    source: ModelDirectory
    cut: Cut
    carving: CarvePlan
    calibration: "Calibration | None"
    refits: bool
    refit_passes: int

    @property
    def disk_bytes(self) -> int:
        """The most bytes on disk while the result is written."""
        if not self.refits:
            return self.carving.nbytes
        layout = self.source.layout
        per_parameter = self.source.weight_bytes / layout.parameters()
        return refit_bytes(
            layout, self.cut.sizes, per_parameter, self.carving.nbytes,
            every=self.refit_passes > 0,
        )  # fmt: skip

    def result(
        self,
        out: Path,
        seconds: float = 0.0,
        refit: "Refit | None" = None,
        refit_seconds: float = 0.0,
    ) -> Pruned:
        """The result of this cut; `seconds`: how long the carving took."""
        layout, cut = self.source.layout, self.cut
        return Pruned(
            self.source.path, out, cut,
            layout.parameters(), layout.parameters(cut.sizes),
            layout.parameters_by_part(), layout.parameters_by_part(cut.sizes),
            {name: layout.sizes[name] for name in layout.blueprint.axis_names},
            self.carving.nbytes,
            (*notes(layout, cut), *left_out(self.source.path, cut, self.carving)), seconds,
            () if refit is None else refit.matrices, refit_seconds,
        )  # fmt: skip

    def write(self, out: Path, progress: Progress = QUIET) -> Pruned:
        """Rotate and refit the cut as it says, and carve the result to `out`.

        Raises UserError if another process writes `out`.
        """
        with workplace(out) as place:
            return self.write_in(place, out, progress)

    def write_in(self, place: Path, out: Path, progress: Progress = QUIET) -> Pruned:
        """The same in the workplace of `out` (`regrow.common.publishing`)."""
        if self.calibration is None:
            return self.result(out, self._carve(self.carving, place, out, progress))
        rotation = self._rotation(self.calibration, progress)
        plan = self._rotated(self.carving, self.cut, rotation)
        if not self.refits:
            return self.result(out, self._carve(plan, place, out, progress))
        began = time.monotonic()
        refit = self._refit(place, self.calibration, progress, rotation)
        plan = with_corrections(plan, self.source.layout, refit.corrections)
        refit_seconds = time.monotonic() - began
        return self.result(out, self._carve(plan, place, out, progress), refit, refit_seconds)

    def _rotation(self, calibration: "Calibration", progress: Progress) -> "Rotation | None":
        """The directions that the cut keeps; None if it keeps channels."""
        kept = [axis.kept for axis in self.cut.axes.values() if axis.rotated]
        if not kept:
            return None
        from regrow.scoring.stream import measure_stream
        from regrow.surgery.rotation import rotation_of

        source = self.source
        stream = measure_stream(source, calibration, progress.say)
        rotation = rotation_of(stream, source.checkpoint, source.layout, kept[0])
        progress.say(rotation.words())
        return rotation

    def _rotated(self, plan: CarvePlan, cut: Cut, rotation: "Rotation | None") -> CarvePlan:
        if rotation is None:
            return plan
        from regrow.surgery.rotation import rotated

        return rotated(plan, self.source.layout, cut, rotation)

    def _carve(self, plan: CarvePlan, place: Path, out: Path, progress: Progress) -> float:
        """Write the files of a plan; how many seconds that took."""
        done = 0

        def report(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress.advance(done, plan.weight_bytes)

        progress.say(f"carving {plan.weight_bytes:,} bytes to {out}")
        began = time.monotonic()
        carve(plan, out, report, place)
        return time.monotonic() - began

    def _refit(
        self,
        directory: Path,
        calibration: "Calibration",
        progress: Progress,
        rotation: "Rotation | None" = None,
    ) -> "Refit":
        """Refit the layers of the cut; `directory`: for temporary files."""
        from regrow.surgery.refitting.refit import refit

        # The vocabulary changes no layer, and the text may hold tokens that the cut drops.
        axes = {name: axis for name, axis in self.cut.axes.items() if name != "vocab"}
        cut = Cut(self.cut.model, axes)
        plain = directory / "carved"
        carve(self._rotated(plan_output(self.source, cut), cut, rotation), plain)
        weights = directory / "weights"
        weights.mkdir()
        found = refit(
            self.source, ModelDirectory(plain), self.cut, calibration, weights,
            passes=self.refit_passes, rotation=rotation, progress=progress,
        )  # fmt: skip
        progress.say(found.words())
        shutil.rmtree(plain)
        return found
