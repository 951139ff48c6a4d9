"""Check a run before any work: changes of the recipe, disk, memory, and the machine."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from regrow.common import environment
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.files import remove
from regrow.common.precision import resolve_precision
from regrow.common.progress import Progress
from regrow.common.publishing import unfinished_place
from regrow.pipeline.ledger import Entry, Ledger, Step
from regrow.pipeline.ledger_checks import check_entries
from regrow.pipeline.run_inputs import writing_settings
from regrow.pipeline.run_plan import RunPlan
from regrow.pipeline.run_stage import RunStage
from regrow.pipeline.stage_layouts import error_of_cut
from regrow.pipeline.steps import (
    AT_ONCE,
    CONTROL,
    SPEED,
    STAGES,
    TRAINING_FILE,
    WRITE,
    WRITTEN_FILE,
    find_changes,
)
from regrow.surgery.refitting.disk import refit_bytes
from regrow.training.settings import TRAINED, RecoverySettings
from regrow.writing.text_writer import begun_otherwise, written_files

_MAX_REASONS = 4
OUTPUTS = {
    "carve": ("carved", "model"),
    "recover": ("training", "model", TRAINED, "exports", TRAINING_FILE),
}
"""What a step writes into the directory of its stage, by its kind."""


def check_run(plan: RunPlan, ledger: Ledger, redo: bool, progress: Progress) -> None:
    """Raise UserError if the run is not possible, or continues one with another recipe.

    `redo`: if the recipe changed, remove the results that this invalidates, in place of an error.
    """
    _check_changes(plan, ledger, redo, progress)
    _check_unfinished_text(plan, ledger, redo, progress)
    _check_ledger(plan, ledger)
    to_do = [
        step for step in plan.steps.values() if ledger.done(step) is None and plan.is_wanted(step)
    ]
    trained = [step.stage for step in to_do if step.kind == "recover"]
    _check_disk(plan, to_do, trained)
    for step in to_do:
        if step.kind == "carve":
            _check_refit_memory(plan, step.stage)
    for stage in trained:
        _check_machine(stage, plan.stages[stage].recovery)
        _check_memory(plan.stages[stage])
    for line in _environment_warnings(ledger.entries.values()):
        progress.say(line)


def _check_ledger(plan: RunPlan, ledger: Ledger) -> None:
    """Raise UserError if what the run or its report will read from the ledger is damaged."""
    from regrow.pipeline.summary import summarise

    done = (ledger.done(step) for step in plan.steps.values())
    check_entries([entry for entry in done if entry is not None], ledger.path)
    if "original" in ledger.entries:
        summarise(plan.out)


def _check_changes(plan: RunPlan, ledger: Ledger, redo: bool, progress: Progress) -> None:
    changes = find_changes(plan.steps, ledger.entries, plan.out)
    # Comparisons that this run was not asked for are not done again.
    dropped = {CONTROL, AT_ONCE} - {stage.name for stage in plan.comparisons()}
    words = changes.words(dropped)
    if not words:
        return
    if not redo:
        _refuse_changes(changes.reasons, words, plan.out)
    progress.say(f"doing again, since the recipe changed: {words}")
    forgotten = [entry.step for entry in changes.entries]
    if any(entry.kind in ("carve", "recover") for entry in changes.entries):
        forgotten.append(SPEED)  # of models that are made again
    ledger.forget(forgotten)
    for entry in changes.entries:
        names = OUTPUTS.get(entry.kind, ())
        remove(*(plan.out / STAGES / entry.stage / name for name in names))
    if WRITE in [entry.step for entry in changes.entries]:
        remove(*written_files(plan.out / WRITTEN_FILE))
    for stage in changes.trainings:
        remove(*(plan.out / STAGES / stage / name for name in OUTPUTS["recover"]))


def _check_unfinished_text(plan: RunPlan, ledger: Ledger, redo: bool, progress: Progress) -> None:
    """Raise UserError if the original began to write its text with other settings.

    `redo`: remove what it wrote then, in place of an error.
    """
    step, source, out = plan.steps.get(WRITE), plan.recipe.data.written, plan.out / WRITTEN_FILE
    if step is None or source is None or ledger.done(step) is not None:
        return
    other = begun_otherwise(plan.original, out, writing_settings(source, plan.recipe.seed))
    if other is None:
        return
    left = unfinished_place(out)
    if not redo:
        raise UserError(
            f"{left}: text that was begun with other {other}; set `redo` to write it anew, or "
            "choose another directory"
        )
    progress.say(f"writing the text of {source.name} anew, since its {other} changed")
    remove(left)


def _refuse_changes(changed: Iterable[str], invalid: str, out: Path) -> None:
    reasons = list(changed)
    if len(reasons) > _MAX_REASONS:
        reasons[_MAX_REASONS:] = [f"{len(reasons) - _MAX_REASONS} more"]
    why = "; ".join(reasons) or "stages were added, removed or moved"
    raise UserError(
        f"{out}: the recipe changed ({why}); this invalidates {invalid}; set "
        "`redo` to do them again, or choose another directory"
    )


def _check_disk(plan: RunPlan, to_do: Sequence[Step], trained: Sequence[str]) -> None:
    counts = {name: stage.parameters for name, stage in plan.stages.items()}
    bytes_per_parameter = plan.original.weight_bytes / plan.original.layout.parameters()
    carved = [step.stage for step in to_do if step.kind == "carve"]
    beside = [_bytes_beside_result(plan, stage, bytes_per_parameter) for stage in carved]
    if carved:
        # At least the size of the original, which leaves room for what is not counted.
        beside.append(plan.original.weight_bytes)
    # What a refit needs is removed before a training begins, and the other way round. A checkpoint
    # has weights and two moments in float32, and is there twice while another one replaces it.
    beside += [plan.stages[name].trained_parameters * 4 * 3 * 2 for name in trained]
    passing = max(beside, default=0)
    needed = _model_bytes(to_do, counts, bytes_per_parameter) + passing
    # The checkpoints of an unfinished training will be replaced, so their bytes are available.
    checkpoints = [(plan.out / STAGES / stage).glob("training/*/*") for stage in trained]
    needed -= sum(path.stat().st_size for paths in checkpoints for path in paths)
    if needed > 0:
        check_free_space(plan.out / STAGES, needed)


def _model_bytes(
    to_do: Iterable[Step], parameters: Mapping[str, int], bytes_per_parameter: float
) -> int:
    """Bytes of all models that are still to be written.

    `parameters`: by stage. `bytes_per_parameter`: as the weights are stored.
    """
    written = [step for step in to_do if step.kind in ("carve", "recover")]
    # A recovery that does not help writes the weights from before too.
    copies = {"carve": 1, "recover": 2}
    models = sum(copies[step.kind] * parameters[step.stage] for step in written)
    return int(models * bytes_per_parameter)


def _bytes_beside_result(plan: RunPlan, stage: str, bytes_per_parameter: float) -> int:
    """Bytes that a refit of a stage's cut needs on disk beside the result; 0 without a refit."""
    cut = plan.stages[stage].layouts.cut
    if cut is None or not cut.is_refitted:
        return 0
    result = round(plan.stages[stage].parameters * bytes_per_parameter)
    every = cut.spec.refit_passes > 0
    return refit_bytes(cut.layout, cut.sizes, bytes_per_parameter, result, every=every) - result


def _check_refit_memory(plan: RunPlan, stage: str) -> None:
    """Raise UserError, with the stage, if a refit of its cut does not fit in memory."""
    from regrow.surgery.refitting.memory import check_memory

    cut = plan.stages[stage].layouts.cut
    if cut is None or not cut.is_refitted:
        return
    tokens, passes = cut.spec.calibration_tokens, cut.spec.refit_passes
    try:
        # A text with fewer tokens needs less, but it may not exist yet.
        check_memory(plan.original.path, cut.layout, cut.sizes, tokens, passes)
    except UserError as error:
        raise error_of_cut(stage, error) from None


def _check_memory(stage: RunStage) -> None:
    """Raise UserError if a recovery by distillation does not fit in the CPU's memory.

    Nothing is checked with several processes, which share the models out, or with a GPU.
    """
    import torch

    from regrow.common.memory import available_memory

    teacher = stage.layouts.teacher
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if teacher is None or several or torch.cuda.is_available():
        return
    precision = resolve_precision(stage.recovery.precision, torch.device("cpu"))
    teacher_bytes = 2 if precision == "bf16" else 4
    # Weights, gradients and two moments of the student in float32; weights of the teacher.
    student = 4 * stage.parameters + 12 * stage.trained_parameters
    needed = student + teacher_bytes * teacher.parameters()
    available = available_memory()
    if needed > available:
        raise UserError(
            f"student and teacher need {needed / 1e9:,.1f} GB, more than the "
            f"{available / 1e9:,.1f} GB of free memory; leave distill out, or run it on a larger "
            "machine",
            key=f"stages: {stage.name}: recover.distill",
        )


def _check_machine(stage: str, settings: RecoverySettings) -> None:
    """Raise UserError, with the stage, if processes or machine do not support a setting."""
    from regrow.training.distributed.processes import join_processes
    from regrow.training.distributed.sharding import check_offload, check_replicas
    from regrow.training.efficiency.layer_computation import check_compiler

    processes = join_processes()
    device = processes.training_device
    try:
        check_replicas(settings.replicas, processes.count)
        if settings.offload:
            check_offload(processes.count, device)
        if settings.compile:
            check_compiler(device)
    except UserError as error:
        raise error.within(f"stages: {stage}: recover.") from None


def _environment_warnings(entries: Iterable[Entry]) -> Iterator[str]:
    """One line if a run continues with other versions, threads or precision than before."""
    now = {**environment.versions(), **_decisive(environment.machine())}
    for entry in entries:
        then = {**entry.environment["versions"], **_decisive(entry.environment["machine"])}
        changed = [f"{k} was {then.get(k)}, now {v}" for k, v in now.items() if then.get(k) != v]
        if changed:
            yield (
                f"{entry.step} was done elsewhere ({'; '.join(changed)}): what follows may differ "
                "from one whole run in its last bits"
            )
            return


def _decisive(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about a machine that decide the bits of a result."""
    return {key: machine.get(key) for key in ("threads", "products")}
