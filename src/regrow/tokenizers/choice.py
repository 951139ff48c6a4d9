"""Which tokens stay, and why."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reason = Literal["special", "added", "config", "byte", "count", "merge ancestor"]


@dataclass(frozen=True, eq=False)
class VocabularyChoice:
    """The tokens to keep.

    Attributes:
        kept: old ids, ascending, shape [size], int64. The new id of ``kept[i]`` is ``i``.
        reasons: why each kept token stays, in the order of ``kept``: it is special or added, an id
            that a config names, spells a byte, was chosen by its count, or is needed on the path
            of merges to one of these.
    """

    kept: NDArray[np.int64]
    reasons: tuple[Reason, ...]

    def mapping(self) -> dict[int, int]:
        """New id by old id, kept tokens only."""
        return mapping_of(self.kept)


def mapping_of(kept: NDArray[np.int64]) -> dict[int, int]:
    """New id by old id: dense, from 0, in ascending order of old ids."""
    return {int(old): new for new, old in enumerate(kept)}
