"""What is checked of a run before any work: room, changes of the recipe, another machine."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from regrow.common import environment
from regrow.common.errors import UserError
from regrow.common.precision import Precision, resolve_precision
from regrow.pipeline.ledger import Entry, Step
from regrow.training.settings import RecoverySettings

_MOST_REASONS = 4


def check_apart(out: Path, model: Path) -> None:
    """Raise UserError where the run would lie inside the model that it reads."""
    inner, outer = out.resolve(), model.resolve()
    if inner == outer or outer in inner.parents:
        raise UserError(f"{out}: lies inside the model {model}; choose a place outside it")


def bytes_needed(to_do: Iterable[Step], parameters: Mapping[str, int], bytes_each: float) -> int:
    """Room for all models that are still to be made, and for the largest training.

    `parameters`: by stage. `bytes_each`: of a stored parameter.
    """
    made = [step for step in to_do if step.kind in ("carve", "recover")]
    trained = [parameters[step.stage] for step in made if step.kind == "recover"]
    # Weights and two moments in float32, twice while one checkpoint replaces another.
    training = max(trained, default=0) * 4 * 3 * 2
    return int(training + sum(parameters[step.stage] for step in made) * bytes_each)


def check_memory(stage: str, student: int, teacher: int, precision: Precision) -> None:
    """Raise UserError where a recovery by distillation cannot fit in memory.

    `student`, `teacher`: their parameters. Of several processes each has a part, unlike here.
    """
    import torch

    from regrow.common.memory import available_memory

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or torch.cuda.is_available():
        return
    each = 2 if resolve_precision(precision, torch.device("cpu")) == "bf16" else 4
    # Weights, gradients and two moments of the one, weights of the other.
    needed, available = 16 * student + each * teacher, available_memory()
    if needed > available:
        raise UserError(
            f"stages: {stage}: recover.distill: student and teacher need {needed / 1e9:,.1f} GB, "
            f"more than the {available / 1e9:,.1f} GB of free memory; leave distill out, or "
            "run it on a larger machine"
        )


def check_machine(stage: str, settings: RecoverySettings) -> None:
    """Raise UserError, with the stage, at what these processes, or this machine, cannot do."""
    import torch

    from regrow.training.distributed.processes import join_processes
    from regrow.training.distributed.sharding import check_offload, check_replicas
    from regrow.training.efficiency.layer_computation import check_compiler

    processes = join_processes()
    device = processes.device or torch.device("cpu")
    try:
        check_replicas(settings.replicas, processes.count)
        if settings.offload:
            check_offload(processes.count, device)
        if settings.compile:
            check_compiler(device)
    except UserError as error:
        raise UserError(f"stages: {stage}: recover.{error}") from None


def refuse_changes(because: Iterable[str], invalid: str, out: Path) -> None:
    """Raise UserError: the recipe is not the one that the run in `out` began with."""
    reasons = list(because)
    if len(reasons) > _MOST_REASONS:
        reasons[_MOST_REASONS:] = [f"{len(reasons) - _MOST_REASONS} more"]
    why = "; ".join(reasons) or "stages were added, removed or moved"
    raise UserError(
        f"{out}: the recipe changed ({why}); this invalidates {invalid}; ask for redo "
        "to do them again, or choose another directory"
    )


def done_elsewhere(entries: Iterable[Entry]) -> Iterator[str]:
    """One line where a run goes on under other versions or threads than it began with."""
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
    """What of a machine decides the bits of a result."""
    return {key: machine.get(key) for key in ("threads", "products")}
