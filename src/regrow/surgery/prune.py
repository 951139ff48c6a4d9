"""Prune one model directory: score, choose, check, carve."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regrow.architectures import Layout
from regrow.checkpoint.history import change, history_of, with_names
from regrow.checkpoint.model_card import description
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.outputs import check_new_directory
from regrow.common.progress import QUIET, Progress
from regrow.common.publishing import workplace
from regrow.scoring.score import memory_problem
from regrow.scoring.score_file import scores_for
from regrow.surgery.carve import CarvePlan, carve, with_corrections
from regrow.surgery.choose import Scores, choose
from regrow.surgery.cut import AxisCut, Cut, check_cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.output import MAX_SHARD_BYTES, left_out, notes, plan_output
from regrow.surgery.refit_disk import refit_bytes
from regrow.surgery.requests import check_cuts_something, sizes_from_options
from regrow.surgery.rotatable import hidden_axis, rotation_problem

if TYPE_CHECKING:
    from regrow.scoring.calibration import Calibration
    from regrow.surgery.layer_fit import FittedMatrix
    from regrow.surgery.refit import Refit
    from regrow.surgery.rotation import Rotation
    from regrow.vocabulary.kept_tokens import KeptTokens

Documents = Callable[[], Iterator[str]]
"""Called without arguments, it gives an iterator over the documents from the beginning."""

MIN_TEXT_TOKENS = 512
"""A vocabulary is chosen by counts only if the text has at least this many tokens.

If the spec has fewer calibration tokens, that number is enough.
"""


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
class PlannedCut:
    """A cut that was chosen and checked, and the plan of the files that it writes.

    `calibration`: the text for a rotation and a refit; None if neither is done. `refits`: whether
    the cut is refitted.
    """

    source: ModelDirectory
    cut: Cut
    carving: CarvePlan
    calibration: "Calibration | None"
    refits: bool

    @property
    def disk_bytes(self) -> int:
        """The most bytes on disk while the result is written."""
        if not self.refits:
            return self.carving.nbytes
        layout = self.source.layout
        per_parameter = self.source.weight_bytes / layout.parameters()
        return refit_bytes(layout, self.cut.sizes, per_parameter, self.carving.nbytes)

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
        """Solve for the writing matrices of the cut; `directory`: for temporary files."""
        from regrow.surgery.refit import refit

        # The vocabulary changes no layer, and the text may hold tokens that the cut drops.
        axes = {name: axis for name, axis in self.cut.axes.items() if name != "vocab"}
        cut = Cut(self.cut.model, axes)
        plain = directory / "carved"
        carve(self._rotated(plan_output(self.source, cut), cut, rotation), plain)
        weights = directory / "weights"
        weights.mkdir()
        found = refit(
            self.source, ModelDirectory(plain), self.cut, calibration, weights,
            rotation=rotation, progress=progress,
        )  # fmt: skip
        progress.say(found.words())
        shutil.rmtree(plain)
        return found


def plan_cut(
    source: ModelDirectory,
    spec: CutSpec,
    *,
    documents: Documents | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = QUIET,
) -> PlannedCut:
    """Choose a cut, and plan and check all files that it writes.

    `documents`: text for scores and token counts; None if there is no text. `max_shard_bytes`: the
    most bytes of tensors in one file.

    Raises UserError if the cut is impossible for this model, or needs text and there is none.
    """
    check_refit(spec, source.layout, has_text=documents is not None)
    check_rotation(spec, source.layout, has_text=documents is not None)
    history_of(source.path, source.layout)  # its card may be damaged
    progress = _saying_once(progress)
    cut, tokens = choose_cut(source, spec, documents, seed=seed, progress=progress)
    plan = plan_output(source, cut, tokens, max_shard_bytes)
    return _planned(source, spec, cut, plan, documents, seed, progress)


def prune_checkpoint(
    source: ModelDirectory,
    out: Path,
    spec: CutSpec,
    *,
    documents: Documents | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = QUIET,
) -> Pruned:
    """Cut a model and write the result to `out`; the other arguments are those of `plan_cut`.

    Raises UserError, before anything is written, if the cut is impossible or another process writes
    `out`.
    """
    check_new_directory(out, source.path)
    with workplace(out) as place:  # from here on no other process writes `out`
        planned = plan_cut(
            source, spec, documents=documents, seed=seed, max_shard_bytes=max_shard_bytes,
            progress=progress,
        )  # fmt: skip
        check_free_space(out, planned.disk_bytes)
        return planned.write_in(place, out, progress)


def repeat_cut(
    source: ModelDirectory, out: Path, cut: Cut, spec: CutSpec, documents: Documents, seed: int
) -> None:
    """Carve a cut that was chosen before once more.

    The result is the same, byte for byte. With a refit or a rotation, this holds for the same kind
    of machine and the same number of threads.

    `spec`: the options from which the cut was chosen. `documents`: the text from which its
    vocabulary was chosen, and on which it was rotated and refitted. `seed`: of the first time.
    """
    layout = source.layout
    ordered = {name: cut.axes[name] for name in layout.blueprint.axis_names if name in cut.axes}
    tokens: KeptTokens | None = None
    if "vocab" in ordered and spec.vocabulary:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        tokens = choose_vocabulary(source.path, layout, spec.vocabulary, documents)
    again = Cut(cut.model, ordered)
    plan = plan_output(source, again, tokens, MAX_SHARD_BYTES)
    _planned(source, spec, again, plan, documents, seed, QUIET).write(out)


def check_refit(spec: CutSpec, layout: Layout, *, has_text: bool) -> None:
    """Raise UserError if a refit is asked for and is not possible."""
    if not spec.refit:
        return
    if not has_text:
        raise UserError("a refit needs a text; give one, or leave refit out", key="refit")
    if spec.cut is None and spec.options.keys() <= {"vocab_size"}:
        raise UserError(
            "only the vocabulary is cut, which changes no layer; leave refit out", key="refit"
        )
    if not layout.blueprint.pre_norm:
        raise UserError(
            f"{layout.blueprint.model_type} normalises what attention and ffn write before it is "
            "in the residual stream, so it cannot be refitted; leave refit out",
            key="refit",
        )


def check_rotation(spec: CutSpec, layout: Layout, *, has_text: bool) -> None:
    """Raise UserError if a rotation is asked for and is not possible."""
    if not spec.rotate:
        return
    if not has_text:
        raise UserError(
            "principal directions are found on a text; give one, or leave rotate out", key="rotate"
        )
    if problem := rotation_problem(layout):
        raise UserError(f"{problem}; leave rotate out", key="rotate")
    name = hidden_axis(layout)
    if name is not None and spec.hidden == layout.sizes[name]:
        raise UserError("hidden keeps its size; leave rotate out", key="rotate")
    # Scores of hidden may be in a file of scores of all axes, and are not used.
    if spec.by is not None and spec.options.keys() == {"hidden"}:
        raise UserError(
            "principal directions are chosen by themselves; leave by or rotate out", key="rotate"
        )


def cuts_hidden(spec: CutSpec) -> bool:
    """Whether a cut is of hidden, perhaps among others."""
    if spec.cut is None:
        return spec.hidden is not None
    return any(name.rpartition(".")[2] == "hidden" for name in Cut.load(spec.cut).axes)


def rotates(spec: CutSpec, layout: Layout) -> bool:
    """Whether a cut of hidden rotates it, if there is text."""
    if spec.cut is not None:
        return Cut.load(spec.cut).is_rotated
    if spec.rotate is None:
        return spec.by is None and spec.scores is None and rotation_problem(layout) is None
    return spec.rotate


def _planned(
    source: ModelDirectory,
    spec: CutSpec,
    cut: Cut,
    plan: CarvePlan,
    documents: Documents | None,
    seed: int,
    progress: Progress,
) -> PlannedCut:
    """Draw the text for a rotation and a refit, and describe the result in its files."""
    calibration: Calibration | None = None
    blueprint = source.layout.blueprint
    is_whole = all(axis.is_identity for name, axis in cut.axes.items() if name != "vocab")
    is_ordered = all(
        (np.diff(axis.keep) > 0).all()
        for name, axis in cut.axes.items()
        if blueprint.axis(name).kind == "layer"
    )
    if spec.refit and not is_ordered:
        raise UserError(
            "the cut puts layers in another order, so no stream of the original is theirs; leave "
            "refit out",
            key="refit",
        )
    wanted = (blueprint.pre_norm and is_ordered) if spec.refit is None else spec.refit
    refits = wanted and documents is not None and not is_whole
    if cut.is_rotated and documents is None:
        raise UserError("its principal directions are found on a text; give one", key="cut")
    if refits or cut.is_rotated:
        assert documents is not None
        from regrow.scoring.calibration import CalibrationText
        from regrow.scoring.score import draw_text

        text = CalibrationText(documents, spec.calibration_tokens)
        try:
            calibration = draw_text(source, text, seed, progress.say)
        except UserError as error:
            if cut.is_rotated:
                raise
            raise UserError(f"{error}, or set refit to false", key="refit") from None
    if cut.is_rotated and (problem := memory_problem(source)):
        from regrow.scoring.offload import check_offload

        check_offload(problem)
    if refits:
        assert calibration is not None
        from regrow.surgery.refit import check_memory

        check_memory(source, cut, calibration)
    described = _described(plan, source, spec, cut, calibration, refits=refits)
    return PlannedCut(source, cut, described, calibration, refits)


def _saying_once(progress: Progress) -> Progress:
    """The same progress, which says no message twice: scores and a refit read the same text."""
    said = set[str]()

    def say(message: str) -> None:
        if message not in said:
            said.add(message)
            progress.say(message)

    return replace(progress, say=say)


def _described(
    plan: CarvePlan,
    source: ModelDirectory,
    spec: CutSpec,
    cut: Cut,
    calibration: "Calibration | None",
    *,
    refits: bool,
) -> CarvePlan:
    """The same plan with the history and the card of the result."""
    words = cut.words()
    if calibration is not None:
        done = "refitted" if refits else "directions found"
        words = f"{words}; {done} on {calibration.tokens:,} tokens of text"
    settings = spec.model_dump(exclude_defaults=True, warnings=False)
    step = change("cut", words, {"cut": with_names(settings)}, source.layout, cut.sizes)
    history = history_of(source.path, source.layout).then(step)
    return replace(plan, files={**description(history, plan.config), **plan.files})


def choose_cut(
    source: ModelDirectory,
    spec: CutSpec,
    documents: Documents | None,
    *,
    seed: int,
    progress: Progress = QUIET,
) -> tuple[Cut, "KeptTokens | None"]:
    """Choose the cut of a spec; also returns the kept tokens if it chose a vocabulary, else None.

    `documents`: text for scores and token counts; None if there is no text.
    """
    checkpoint, layout = source.checkpoint, source.layout
    if spec.cut is not None:
        cut = Cut.load(spec.cut)
        check_cut(cut, layout, checkpoint.fingerprint)
        return cut, None
    sizes, fixed = sizes_from_options(layout, spec.options)
    if spec.vocab is None:
        check_cuts_something(layout, spec.options, sizes, fixed)
    tokens: KeptTokens | None = None
    if spec.vocabulary and sizes.get("vocab", 0) < layout.sizes["vocab"]:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        tokens = choose_vocabulary(
            source.path, layout, spec.vocabulary, documents,
            least_tokens=min(MIN_TEXT_TOKENS, spec.calibration_tokens), notify=progress.say,
        )  # fmt: skip
        kept = np.concatenate([tokens.choice.kept, tokens.padding])
        layout.check_sizes({**sizes, "vocab": len(kept)})
        fixed["vocab"] = kept
    hidden = hidden_axis(layout)
    if (
        hidden is not None
        and sizes.get(hidden, layout.sizes[hidden]) < layout.sizes[hidden]
        and documents is not None
        and rotates(spec, layout)
    ):
        fixed[hidden] = np.arange(sizes[hidden], dtype=np.int64)
    else:
        hidden = None
    scored = [
        name for name, size in sizes.items() if name not in fixed and size < layout.sizes[name]
    ]
    scores: Scores = {}
    if spec.scores is not None:
        scores = scores_for(spec.scores, layout, checkpoint.fingerprint, scored)
    elif scored:
        from regrow.scoring.calibration import TOKENS, CalibrationText
        from regrow.scoring.score import score

        text = None
        if documents is not None:
            text = CalibrationText(documents, min(spec.calibration_tokens, TOKENS))
        scores = score(
            source, scored, by=spec.by, text=text, sizes=sizes, seed=seed, notify=progress.say
        )
    cut = choose(layout, checkpoint.fingerprint, sizes, scores, fixed)
    axes = dict(cut.axes)
    if tokens is not None and len(tokens.padding):
        axes["vocab"] = AxisCut(layout.sizes["vocab"], fixed["vocab"], padded=len(tokens.padding))
    if hidden is not None:
        axes[hidden] = AxisCut(layout.sizes[hidden], fixed[hidden], rotated=True)
    return Cut(cut.model, {n: axes[n] for n in layout.blueprint.axis_names if n in axes}), tokens
