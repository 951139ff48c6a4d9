"""The principal directions of what the matrices of a layer read.

Adam divides the step of each weight by the size of its gradients. The gradients follow the inputs
of the matrix, and inputs inside a language model vary most along directions that mix all channels.
So Adam sees the differences between directions only if the weights are written in these directions.
That is one side of SOAP (Vyas et al. 2024, "SOAP: improving and stabilizing Shampoo using Adam"),
with the directions of the inputs themselves, found once for a layer.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regrow.surgery.refitting.layer_fit import LayerFit


def principal_directions(
    fit: LayerFit, streams: Sequence[Tensor], batches: Iterable[int], most: int
) -> dict[int, Tensor]:
    """Orthogonal matrices, [inputs, inputs], by the `id` of the weight that reads these inputs.

    Their columns are the eigenvectors of the second moments of the inputs, in these batches. Only
    the weights of linear modules have directions. Those that read the same inputs share them.

    `streams`: the stream in front of the layer, by batch. `most`: a weight with more inputs has no
    directions.
    """
    linears = [
        module
        for module in fit.layer.modules()
        if isinstance(module, nn.Linear) and module.in_features <= most
    ]
    sums: dict[int, Tensor] = {}
    first: dict[int, int] = {}
    """By the `id` of a module: the `id` of the first module that read the same inputs."""
    for batch in batches:
        read: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for module in linears:
                hook = module.register_forward_pre_hook(partial(_note, read))
                stack.callback(hook.remove)
            fit.calls[batch](fit.layer, streams[batch])
        for reader, inputs in read.items():
            first[reader] = next(other for other, same in read.items() if same is inputs)
            if first[reader] == reader:
                moments = _second_moments(inputs, fit.texts[batch])
                sums[reader] = moments + sums[reader] if reader in sums else moments
    found = {
        reader: torch.linalg.eigh(total).eigenvectors.float() for reader, total in sums.items()
    }
    return {
        id(module.weight): found[first[id(module)]] for module in linears if id(module) in first
    }


def turned(values: Tensor, directions: Tensor | None) -> Tensor:
    """Values, [outputs, inputs], along directions of the inputs, in float32.

    The product is computed in the precision of matrix products at the place of the call. Without
    directions, the values as they are.
    """
    return values if directions is None else (values @ directions).float()


def turned_back(values: Tensor, directions: Tensor | None) -> Tensor:
    """The values that `turned` gave these for."""
    return turned(values, None if directions is None else directions.T)


def _note(read: dict[int, Tensor], module: nn.Module, args: tuple[Any, ...]) -> None:
    read[id(module)] = args[0]


def _second_moments(inputs: Tensor, is_text: Tensor) -> Tensor:
    """Of the tokens of a batch, [inputs, inputs]; in float64, so that batches can be added."""
    rows = inputs.reshape(*is_text.shape, -1)[is_text].float()
    with torch.autocast(rows.device.type, enabled=False):
        return (rows.T @ rows).double()
