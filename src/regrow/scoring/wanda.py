"""Activation times weight norm (Sun et al., 2024, "A Simple and Effective Pruning Approach for
Large Language Models", which calls it Wanda, section 3).

The paper scores each weight by its size times the norm of the activation that it multiplies. Here
an index is scored as a whole: by the activation of its channel times the norm of the weights that
read the channel. Each matrix that reads the axis is one site. A head has several channels, whose
products are combined by their L2 norm.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from regrow.architectures import Axis, LabelledTensor, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from regrow.scoring.observe import Seen


def product(seen: "Seen") -> "Tensor":
    """Absolute input of a matrix times the norm of the weights that read it, [tokens, size]."""
    weight = cast("Tensor", seen.module.weight).to(seen.read.dtype)
    products = (seen.read * weight.square().sum(0).sqrt()).reshape(len(seen.read), seen.size, -1)
    return products.square().sum(-1).sqrt()


def readers(layout: Layout, axis: Axis) -> Iterator[str]:
    """Names of the modules inside layers whose matrices read an axis, layer by layer."""
    reading = [t for t in layout.distinct_tensors if t.layer and _reads(layout, t, axis.name)]
    for tensor in sorted(reading, key=lambda tensor: tensor.layer or ("", 0)):
        yield tensor.parameter.removesuffix(".weight")


def _reads(layout: Layout, tensor: LabelledTensor, axis: str) -> bool:
    """Whether this is a matrix [output, input] with the axis in its input.

    The rows of an embedding, such as T5's position biases, lie along no axis that can be cut.
    """
    dimensions = tensor.dims.dimensions
    if len(dimensions) != 2 or axis not in dimensions[1].names:
        return False
    return any(name in dimensions[0].names for name in layout.blueprint.axis_names)
