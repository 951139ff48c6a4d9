"""Scores at random, the choice of OpenBA-V2 (Qiao et al., 2024, neural pruning).

Its paper draws one mask of hidden for the whole model, and one of ffn and one of heads for each
layer; the axes of a blueprint say the same.
"""

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout
from regrow.common.random_stream import random_stream


def random_scores(layout: Layout, axis: Axis, seed: int) -> NDArray[np.float64]:
    """Uniform in [0, 1), [size] or [layers, size]; a pure function of seed, axis and its sizes."""
    size = layout.sizes[axis.name]
    shape = (layout.sizes[axis.along], size) if axis.along else (size,)
    bits = random_stream(seed, f"score {axis.name}", 0).random_raw(int(np.prod(shape)))
    return (bits >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53
