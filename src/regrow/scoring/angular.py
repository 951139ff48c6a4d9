"""The angular distance of blocks (Gromov et al., 2024, "The Unreasonable Ineffectiveness of the
Deeper Layers", section 3.2): how much a run of layers turns the hidden states.

The run that is dropped depends on how many layers are dropped. So this is no score of each layer,
but a table of distances, from which `cuts/choose_indices.py` takes the best run of each length.
The paper takes the angle at the last token of each text. Here the angle is averaged over all
tokens, so that a short text is enough.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from regrow.scoring.calibration import Calibration
    from regrow.scoring.observe import Seen


def mean_angles(
    model: Any, layout: Layout, axis: Axis, calibration: "Calibration", size: int
) -> NDArray[np.float64]:
    """Mean angles between hidden states, divided by pi, [layers + 1, layers + 1].

    Entry [i, j] compares the states in front of layer i with those in front of layer j; the last
    row and the last column are of the states behind the last layer. `size` is not used: the table
    serves all sizes.
    """
    import torch

    from regrow.scoring.observe import observe

    layers = layout.sizes[axis.name]
    first = model.get_submodule(layout.modules(axis.sites)[0])
    states: list[Tensor] = []

    def angles(seen: "Seen") -> "Tensor":
        """From the states in front of each layer so far to those behind this layer."""
        if seen.module is first:
            states[:] = [_unit(seen.read)]
        after = _unit(seen.wrote)
        # The arcsine of half the chord is exact also for small angles, where the arccosine is not.
        chords = torch.stack([(after - state).norm(dim=-1) for state in states], dim=-1)
        states.append(after)
        turned = 2 * (chords / 2).clamp_max(1).asin() / math.pi
        later = turned.new_zeros(len(turned), layers + 1 - turned.shape[-1])
        return torch.cat([turned, later], dim=-1)

    table = np.zeros((layers + 1, layers + 1))
    table[1:] = observe(model, layout, {axis.name: angles}, calibration)[axis.name]
    return table + table.T


def _unit(states: "Tensor") -> "Tensor":
    import torch

    return torch.nn.functional.normalize(states.float(), dim=-1)
