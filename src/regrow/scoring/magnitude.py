"""Weight magnitude: the L2 norm of all weights of an index, without any text.

Structured magnitude pruning (Li et al., 2017, "Pruning Filters for Efficient ConvNets", section
3.1) ranks by the L1 norm, and reports that L2 gives about the same; so it is here
(docs/benchmarks.md). L2 is used because the norm of a head then does not depend on the basis of its
channels: a rotation of a head's values, undone in the output projection, changes nothing in the
network, and should change no score.

Layers are not scored: the norms in front of a layer divide out the size of its input, so the size
of its weights does not say how much it adds to the residual stream.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from regrow.scoring.weights import WeightRows


def magnitude(weights: Iterable[WeightRows], size: int) -> NDArray[np.float64]:
    """The L2 norm of the weights of each index, [size]."""
    squares = np.zeros(size)
    for rows in weights:
        of_rows = np.einsum("ij,ij->i", rows.values, rows.values)
        squares += np.bincount(rows.indices, of_rows, minlength=size)
    return np.sqrt(squares)
