"""How many bytes a cut with a refit needs on disk while it is written."""

import math
from collections.abc import Mapping

from regrow.architectures import Layout

_FLOAT32_BYTES = 4


def refit_bytes(
    before: Layout,
    sizes: Mapping[str, int],
    bytes_per_parameter: float,
    result: int,
    *,
    every: bool,
) -> int:
    """The most bytes on disk while a cut is refitted and its result is written.

    A refit has a carved copy on disk, with the whole vocabulary, and all weights that it changed,
    in float32. The copy is removed before the result is written.

    Args:
        before: the layout before the cut.
        sizes: after the cut, of the axes that are cut.
        bytes_per_parameter: as the weights are stored.
        result: bytes of the result.
        every: whether all weights of each layer change, since it is trained.
    """
    cut = {n: size for n, size in sizes.items() if before.blueprint.axis(n).kind != "vocab"}
    copy = round(before.parameters(cut) * bytes_per_parameter)
    return _FLOAT32_BYTES * _changed_parameters(before, cut, every) + max(copy, result)


def _changed_parameters(before: Layout, sizes: Mapping[str, int], every: bool) -> int:
    """Weights and biases that a refit may change, at their sizes after the cut.

    They are those of the matrices that write to the residual stream, and that read it where it is
    cut, or all of a layer. The head is not among them, since it is computed when the result is
    written.
    """
    from regrow.surgery.refitting.layer_fit import module_of, readers, writers  # imports torch

    after = {**before.sizes, **sizes}
    total = 0
    for axis in before.blueprint.axes:
        if axis.kind != "layer":
            continue
        modules = set(writers(before, axis.name, 0))
        modules |= {
            module_of(label)
            for label in readers(before, axis.name, 0).values()
            if label.dims.dimensions[1].names & sizes.keys()
        }
        each = sum(
            math.prod(dimension.size(after) for dimension in label.dims.dimensions)
            for label in before.tensors.values()
            if label.layer == (axis.name, 0)
            and (label.expert is None or label.expert[1] < after[label.expert[0]])
            and (every or label.parameter.rpartition(".")[0] in modules)
        )
        total += after[axis.name] * each
    return total
