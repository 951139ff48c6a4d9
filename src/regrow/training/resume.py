"""The state of a training, and how it resumes from a checkpoint."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regrow.common.errors import UserError, one_line
from regrow.training.checkpoints import Checkpoint, last_checkpoint, load_checkpoint
from regrow.training.distributed.processes import Processes
from regrow.training.step_guard import RECENT

_log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """The state of a training; a checkpoint stores it beside weights and optimiser state.

    Attributes:
        step: Steps done.
        tokens: Tokens of text trained on.
        predicted: Tokens predicted.
        seconds: Wall time of all runs so far.
        curve: (tokens, loss) of each step that was not skipped.
        heldout: (tokens, held-out loss) of each measurement.
        heldout_identity: Hash of the held-out text.
        recent: Loss and gradient norm of the last steps that were not skipped.
        skipped: Steps skipped.
        skipped_in_a_row: Steps skipped since the last update.
        mixtures: State of the mixtures, after each of their updates.
    """

    step: int = 0
    tokens: int = 0
    predicted: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    heldout_identity: str = ""
    recent: list[tuple[float, float]] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    mixtures: dict[str, Any] = field(default_factory=dict)

    def add(
        self, tokens: int, predicted: int, loss: float, norm: float, skipped: str | None
    ) -> None:
        """Add a step. A skipped step counts for the budget of tokens, not for the curve.

        `skipped`: why there was no update; None if there was one.
        """
        self.step += 1
        self.tokens += tokens
        if skipped is not None:
            self.skipped += 1
            self.skipped_in_a_row += 1
            return
        self.predicted += predicted
        self.skipped_in_a_row = 0
        self.curve.append((self.tokens, loss))
        self.recent = [*self.recent, (loss, norm)][-RECENT:]


def resume(
    directory: Path,
    identities: dict[str, Any],
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    machine: dict[str, str | int],
    processes: Processes,
) -> TrainingState:
    """Load the last checkpoint of a directory; a new state if there is none.

    `identities`: everything that decides the weights, by name. `steps`: number of steps of the
    whole training. `machine`: what decides the last bits of the weights
    (`regrow.training.reproducibility`).

    Raises UserError if all checkpoints are damaged, or the last belongs to another training.
    """
    checkpoint = processes.in_first(lambda: last_checkpoint(directory, restore))
    if checkpoint is None:
        return TrainingState()
    state = checkpoint.state
    restored = restore(checkpoint)
    for key in dict.fromkeys([*identities, *state["run"]]):
        current, saved = (each.get(key, "its default") for each in (identities, state["run"]))
        if saved != current:
            raise processes.error(
                f"{checkpoint.path}: a checkpoint of another training ({key} was {saved}, "
                f"now {current}); remove {checkpoint.path.parent} or name another directory"
            )
    changed = [
        f"{key} was {state['environment'].get(key)}, now {value}"
        for key, value in machine.items()
        if state["environment"].get(key) != value
    ]
    if changed and processes.first:
        _log.warning(
            "%s: resumed elsewhere than it was written, so the weights may differ in their last "
            "bits: %s",
            checkpoint.path,
            "; ".join(changed),
        )
    is_complete = state["step"] == steps
    wanted = None if is_complete else optimizers
    processes.in_all(lambda: load_checkpoint(checkpoint, model, wanted))
    return restored


def restore(checkpoint: Checkpoint) -> TrainingState:
    """The state in a checkpoint. Raises UserError if a value is missing or of another type."""
    saved = checkpoint.state
    try:
        for key, kind in _TYPES.items():
            if not isinstance(saved[key], kind) or isinstance(saved[key], bool):
                raise TypeError(f"{key} is {str(saved[key])[:40]!r}")
        return TrainingState(
            step=saved["step"],
            tokens=saved["tokens"],
            predicted=saved["predicted"],
            seconds=saved["seconds"],
            curve=_pairs(saved["curve"]),
            heldout=[(int(tokens), loss) for tokens, loss in saved["heldout"]],
            heldout_identity=saved["heldout_identity"],
            recent=_pairs(saved["recent"]),
            skipped=saved["skipped"],
            skipped_in_a_row=saved["skipped_in_a_row"],
            mixtures=saved["mixtures"],
        )
    except KeyError as error:
        problem = f"has no {error}"
    except (TypeError, ValueError, OverflowError) as error:
        problem = one_line(str(error))
    raise UserError(f"state.json: not the state of a training: {problem}")


_TYPES: Mapping[str, type] = {
    "run": dict, "environment": dict, "step": int, "tokens": int, "predicted": int,
    "seconds": float, "heldout_identity": str, "skipped": int, "skipped_in_a_row": int,
    "mixtures": dict,
}  # fmt: skip


def _pairs(values: list[list[float]]) -> list[tuple[Any, float]]:
    for pair in values:
        if len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
            raise TypeError(f"{str(pair)[:40]!r} is no pair of numbers")
    return [(first, second) for first, second in values]
