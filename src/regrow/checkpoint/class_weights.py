"""The weights of a model without a blueprint, under the names of its files.

transformers renames, fuses and splits tensors on load, and its own reversal gives them back. Beyond
that, a file may lack the prefix of the class, and may hold tensors that the class does not.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regrow.architectures import Layout
from regrow.checkpoint.header import TORCH_NAMES, TensorInfo
from regrow.checkpoint.reader import Checkpoint, read_bytes
from regrow.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def weights_by_file_name(
    model: Any, state: "Mapping[str, Tensor]", original: Checkpoint, layout: Layout
) -> "dict[str, Tensor]":
    """The weights of a state dict by their names in the files of `original`.

    A tensor that the class does not hold is as in the file. `model`: the module that was loaded
    from `original`. `state`: of it, with any values. `layout`: of `original`.
    """
    own = _as_saved(model, state)
    names = _own_names(model, own, layout)
    return {
        name: own[names[name]] if name in names else stored_tensor(info)
        for name, info in original.tensors.items()
    }


def check_weights_by_file_name(model: Any, original: Checkpoint, layout: Layout) -> None:
    """Raise UserError unless `weights_by_file_name` gives all weights, as they are in the files.

    Without this, a training could end in weights that cannot be written. `model`: as it was loaded
    from `original`, in float32.
    """
    import torch

    own = _as_saved(model, model.state_dict())
    names = _own_names(model, own, layout)
    kind = type(model).__name__
    for name, own_name in names.items():
        info = original.tensors[name]
        if not torch.equal(own[own_name], stored_tensor(info).to(own[own_name].dtype)):
            raise UserError(
                f"{info.file}: {name}: {kind} loads other values than are stored, so it is unknown "
                "how to store what it learns"
            )
    known = {own[each].data_ptr() for each in names.values()}  # tied tensors share their memory
    known |= {buffer.data_ptr() for buffer in model.buffers()}
    known |= {each.data_ptr() for each in model.parameters() if not each.requires_grad}
    for own_name, tensor in own.items():
        if own_name not in names.values() and tensor.data_ptr() not in known:
            raise UserError(
                f"{original.directory}: {own_name}: {kind} has it under this name and the files do "
                "not, so it is unknown how to store what it learns"
            )


def freeze_computed(model: Any) -> None:
    """Freeze what a class computes and never saves: the tables of positions of Marian.

    transformers loads them as weights that could learn.
    """
    for name in set(model._keys_to_ignore_on_save or ()) - set(model.all_tied_weights_keys):
        module, _, parameter = name.rpartition(".")
        try:
            model.get_submodule(module).get_parameter(parameter).requires_grad_(False)
        except AttributeError:  # a pattern, or a buffer
            continue


def stored_tensor(info: TensorInfo) -> "Tensor":
    """A tensor as it is in the file."""
    import torch

    dtype = getattr(torch, TORCH_NAMES[info.dtype])
    if not info.nbytes:  # torch reads no empty buffer
        return torch.empty(info.shape, dtype=dtype)
    return torch.frombuffer(read_bytes(info), dtype=dtype).reshape(info.shape)


def _as_saved(model: Any, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A state dict as `save_pretrained` would write it: with the tensors as they were loaded."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, Tensor] = revert_weight_conversion(model, dict(state))
    return found


def _own_names(model: Any, own: "Mapping[str, Tensor]", layout: Layout) -> dict[str, str]:
    """The name in `own` of each tensor of the files, without those that the class does not hold."""
    prefix = f"{model.base_model_prefix}."
    found: dict[str, str] = {}
    for name, labelled in layout.tensors.items():
        names = (name, f"{prefix}{name}", name.removeprefix(prefix), labelled.parameter)
        if known := [each for each in names if each in own]:
            found[name] = known[0]
    return found
