"""Numbers that are appended one document after the other, without an array for each."""

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NumberBuffer:
    """Whole numbers of one dtype, in as many bytes as they need.

    A list of arrays takes a hundred bytes more for each array, which is twice as much as the tokens
    of a short document.
    """

    def __init__(self, dtype: type[np.int32] | type[np.int64]) -> None:
        self._dtype = np.dtype(dtype)
        self._numbers: array[int] = array({4: "i", 8: "q"}[self._dtype.itemsize])

    def __len__(self) -> int:
        return len(self._numbers)

    def append(self, number: int) -> None:
        self._numbers.append(number)

    def extend(self, numbers: NDArray[Any] | Iterable[int]) -> None:
        if isinstance(numbers, np.ndarray):
            self._numbers.frombytes(np.ascontiguousarray(numbers, self._dtype).data.cast("B"))
        else:
            self._numbers.extend(numbers)

    def numbers(self) -> NDArray[Any]:
        """All numbers, [numbers]: a view, after which nothing more can be appended."""
        return np.frombuffer(self._numbers, self._dtype)
