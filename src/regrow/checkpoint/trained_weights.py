"""Write trained weights with the names, dtypes and files of the checkpoint before training."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.architectures import Layout
from regrow.architectures.assembled import taken_apart
from regrow.checkpoint.class_weights import weights_by_file_name
from regrow.checkpoint.companions import read_companions
from regrow.checkpoint.header import TORCH_NAMES
from regrow.checkpoint.history import Change, history_of
from regrow.checkpoint.model_card import description
from regrow.checkpoint.reader import Checkpoint
from regrow.checkpoint.writer import WeightFile, partial_directory, publish, small_files
from regrow.common.disk import check_free_space
from regrow.common.files import save_tensors

if TYPE_CHECKING:
    from torch import Tensor


def save_trained(
    model: Any,
    state: "Mapping[str, Tensor]",
    original: Checkpoint,
    layout: Layout,
    out: Path,
    step: Change | None = None,
) -> None:
    """Write the directory `original` to `out` with other weights.

    `model`: the transformers module that was loaded from `original`. `state`: its state dict, of
    any float dtype; values are rounded to the dtypes of `original`. `layout`: of `original`.
    `step`: the training, for the history and the card of the result; None if the weights are those
    from before. Tied tensors stay equal. Tensors that the class ignores are left out; without a
    blueprint they are copied. The directory is written whole or not at all.

    Raises UserError if there is not enough disk space.
    """
    import torch

    weights = []
    for path in original.files:
        infos = (info for info in original.tensors.values() if info.file == path)
        if specs := tuple(info.spec for info in infos if info.name in layout.tensors):
            weights.append(WeightFile(path.name, specs))
    check_free_space(out, sum(spec.nbytes for file in weights for spec in file.tensors))
    if layout.blueprint.vocabulary_only:
        by_name = weights_by_file_name(model, state, original, layout)
    else:
        stored = taken_apart(layout.blueprint, state)
        by_name = {name: stored[each.parameter] for name, each in layout.tensors.items()}
    with partial_directory(out) as partial:
        for file in weights:
            tensors = {
                spec.name: by_name[spec.name]
                .detach()
                .to(getattr(torch, TORCH_NAMES[spec.dtype]), copy=True)
                .contiguous()
                for spec in file.tensors
            }
            save_tensors(tensors, partial / file.name)
        history = history_of(original.directory, layout)
        history = history if step is None else history.then(step)
        files = read_companions(original.directory) | description(history, original.config)
        publish(partial, out, weights, small_files(original.config, files, weights, indent=1))
