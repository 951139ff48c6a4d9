"""Random scores, the choice of OpenBA-V2 (Qiao et al., 2024, neural pruning).

The paper draws one mask of the hidden size for the whole model, and one mask of ffn and one of
heads for each layer. The axes of a blueprint have the same scopes.
"""

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout
from regrow.common.random_stream import random_stream


def random_scores(layout: Layout, axis: Axis, seed: int) -> NDArray[np.float64]:
    """Uniform scores in [0, 1), [size] or [layers, size].

    They depend on the seed, on the name of the axis and on its sizes, and on nothing else.
    """
    size = layout.sizes[axis.name]
    shape = (layout.sizes[axis.along], size) if axis.along else (size,)
    bits = random_stream(seed, f"score {axis.name}", 0).random_raw(int(np.prod(shape)))
    return (bits >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53
