"""Prune one model directory: choose a cut, check and plan it, and write the result."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.checkpoint.history import change, history_of, with_names
from regrow.checkpoint.model_card import description
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.outputs import check_new_directory
from regrow.common.progress import QUIET, Progress
from regrow.common.publishing import workplace
from regrow.corpus.text import Documents
from regrow.cuts.cut import Cut
from regrow.scoring.score import memory_problem
from regrow.surgery.carve import CarvePlan
from regrow.surgery.choose_cut import choose_cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prepared_cut import PreparedCut, Pruned
from regrow.surgery.refitting.words import passes_words
from regrow.surgery.requested_cut import RequestedCut, request_cut
from regrow.surgery.result_files import MAX_SHARD_BYTES, plan_output

if TYPE_CHECKING:
    from regrow.scoring.calibration import Calibration
    from regrow.vocabulary.kept_tokens import KeptTokens


def prepare_cut(
    source: ModelDirectory,
    spec: CutSpec,
    *,
    documents: Documents | None = None,
    counted: Documents | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = QUIET,
) -> PreparedCut:
    """Choose a cut, and plan and check all files that it writes.

    `documents`: text for scores and token counts; None if there is no text. `counted`: the text
    whose tokens are counted, if it is another. `max_shard_bytes`: the most bytes of tensors in one
    file.

    Raises UserError if the cut is impossible for this model, or needs text and there is none.
    """
    history_of(source.path, source.layout)  # its card may be damaged
    request = request_cut(
        spec, source.layout, fingerprint=source.checkpoint.fingerprint,
        has_text=documents is not None,
    )  # fmt: skip
    progress = _saying_once(progress)
    cut, tokens = choose_cut(
        source, request, documents, counted=counted, seed=seed, progress=progress
    )
    plan = plan_output(source, cut, tokens, max_shard_bytes)
    return _prepared(source, request, cut, plan, documents, seed, progress)


def prune_checkpoint(  # noqa: PLR0913 - where it runs, beside what it is for
    source: ModelDirectory,
    out: Path,
    spec: CutSpec,
    *,
    documents: Documents | None = None,
    counted: Documents | None = None,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress = QUIET,
) -> Pruned:
    """Cut a model and write the result to `out`; the other arguments are those of `prepare_cut`.

    Raises UserError, before anything is written, if the cut is impossible or another process writes
    `out`.
    """
    check_new_directory(out, source.path)
    with workplace(out) as place:  # from here on no other process writes `out`
        prepared = prepare_cut(
            source, spec, documents=documents, counted=counted, seed=seed,
            max_shard_bytes=max_shard_bytes, progress=progress,
        )  # fmt: skip
        check_free_space(out, prepared.disk_bytes)
        return prepared.write_in(place, out, progress)


def repeat_cut(
    source: ModelDirectory,
    out: Path,
    cut: Cut,
    spec: CutSpec,
    documents: Documents,
    seed: int,
    *,
    counted: Documents | None = None,
) -> None:
    """Carve a cut that was chosen before once more.

    The result is the same, byte for byte. With a refit or a rotation, this holds for the same kind
    of machine and the same number of threads.

    `spec`: the options from which the cut was chosen. `documents`: the text on which it was rotated
    and refitted. `seed`: of the first time. `counted`: the text from which its vocabulary was
    chosen, if it is another.
    """
    layout = source.layout
    ordered = {name: cut.axes[name] for name in layout.blueprint.axis_names if name in cut.axes}
    tokens: KeptTokens | None = None
    if "vocab" in ordered and spec.vocabulary:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        tokens = choose_vocabulary(source.path, layout, spec.vocabulary, documents, counted=counted)
    again = Cut(cut.model, ordered)
    plan = plan_output(source, again, tokens, MAX_SHARD_BYTES)
    request = request_cut(spec, layout, fingerprint=source.checkpoint.fingerprint, has_text=True)
    _prepared(source, request, again, plan, documents, seed, QUIET).write(out)


def _prepared(
    source: ModelDirectory,
    request: RequestedCut,
    cut: Cut,
    plan: CarvePlan,
    documents: Documents | None,
    seed: int,
    progress: Progress,
) -> PreparedCut:
    """Draw the text for a rotation and a refit, and describe the result in its files."""
    calibration: Calibration | None = None
    spec, refits = request.spec, request.is_refitted
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
            also = " and leave refit_passes out" if spec.refit_passes else ""
            raise UserError(f"{error}, or set refit to false{also}", key="refit") from None
    if cut.is_rotated and (problem := memory_problem(source)):
        from regrow.scoring.offload import check_offload

        check_offload(problem)
    if refits:
        assert calibration is not None
        from regrow.surgery.refitting.layer_training import check_text
        from regrow.surgery.refitting.memory import check_memory

        check_memory(source.path, source.layout, cut.sizes, calibration.tokens, spec.refit_passes)
        if spec.refit_passes:
            check_text(calibration)
    described = _described(plan, source, spec, cut, calibration, refits=refits)
    return PreparedCut(source, cut, described, calibration, refits, spec.refit_passes)


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
        passes = passes_words(spec.refit_passes) if refits else ""
        words = f"{words}; {done} on {calibration.tokens:,} tokens of text{passes}"
    settings = spec.model_dump(exclude_defaults=True, warnings=False)
    step = change("cut", words, {"cut": with_names(settings)}, source.layout, cut.sizes)
    history = history_of(source.path, source.layout).then(step)
    return replace(plan, files={**description(history, plan.config), **plan.files})
