"""A model directory that is loaded for a training, and written with other weights after it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regrow.architectures import Layout
from regrow.checkpoint.class_weights import check_weights_by_file_name, freeze_computed
from regrow.checkpoint.history import Change
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import Checkpoint
from regrow.checkpoint.trained_weights import save_trained
from regrow.objectives.losses.causal import keeps_texts_apart
from regrow.objectives.losses.shared_row_attention import supports_shared_rows
from regrow.training.distributed.processes import Processes, join_processes
from regrow.training.distributed.sharded_loading import load_in_first_process
from regrow.training.lora import add_adapters, without_adapters
from regrow.training.settings import RecoverySettings
from regrow.training.task import TrainingTask


@dataclass(frozen=True, eq=False)
class Trainee:
    """A model that is to be trained.

    Attributes:
        model: The module; with adapters, if the settings have them.
        checkpoint: Of the directory that it was loaded from.
        layout: Of the same.
        settings: Of the training.
        processes: The processes that train it together.
    """

    model: Any
    checkpoint: Checkpoint
    layout: Layout
    settings: RecoverySettings
    processes: Processes

    def open_task(self, open_in_each: Callable[[bool], TrainingTask]) -> TrainingTask:
        """The task, the same in all processes; a single process then moves the model.

        `open_in_each`: makes the task, given whether several examples share a row.
        """
        model, shared_rows = self.model, self.settings.shared_rows
        if not model.config.is_encoder_decoder:
            shared_rows = self.processes.in_first(lambda: keeps_texts_apart(model))
        elif shared_rows is None:
            shared_rows = self.processes.in_first(lambda: supports_shared_rows(model))

        def open_and_move() -> TrainingTask:
            task = open_in_each(shared_rows)
            if self.processes.count == 1:  # several processes shard it before it is on a GPU
                self.model.to(self.processes.training_device)
            return task

        return self.processes.in_all(open_and_move)

    def save(self, weights: Mapping[str, Tensor], path: Path, step: Change) -> None:
        """Write the directory of the model to `path` with these weights, without adapters.

        `weights`: a full state dict of `model`. `step`: the training, for the card of the result.
        """
        plain = without_adapters(weights, self.settings.lora)
        save_trained(self.model, plain, self.checkpoint, self.layout, path, step)


def load_trainee(source: ModelDirectory, settings: RecoverySettings, seed: int) -> Trainee:
    """Load a model to train it. Under torchrun every process must call this.

    `seed`: of the adapters. Raises UserError if the model cannot be loaded, or gets no adapters, or
    if its weights could not be written after the training.
    """
    processes = join_processes()
    checkpoint, layout = processes.in_all(lambda: (source.checkpoint, source.layout))
    model = load_in_first_process(source.path, torch.float32, processes)
    if layout.blueprint.vocabulary_only:
        freeze_computed(model)
        processes.in_first(lambda: check_weights_by_file_name(model, checkpoint, layout))
    if (lora := settings.lora) is not None:
        processes.in_all(lambda: add_adapters(model, lora, seed))
    return Trainee(model, checkpoint, layout, settings, processes)
