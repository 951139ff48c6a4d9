"""Solve again for a matrix by least squares, with a ridge that pulls towards its present weights.

With inputs ``f`` and what the outputs of the matrix lack, ``r``::

    minimise |f D - r|^2 + ridge * |D|^2

The weights then change by ``D``. The ridge is the one with the smallest error on tokens that are
held back, and the solution is then computed from all tokens. If no ridge makes the held-back error
smaller than no change at all, the weights stay as they are. Sums over batches are float64, and so
is the solution; to compare ridges, float32 is enough if they are large.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 0.3, 1.0, 3.0, 10.0)
"""Candidates, as multiples of the mean square of an input."""
START = 5
"""The candidate that is tried first. From there the search goes on while the error falls."""
_FLOAT32_FROM = 1e-2
"""The smallest ridge whose trial is solved in float32, which takes half the time."""
_COLUMNS = 256
"""Inputs whose products with all later ones are summed at once. The sums are symmetric, so half of
them are left out; with 1,536 inputs this takes 0.56 of the time."""
HELD_BACK = 8
"""The last of so many parts of each batch is held back."""
BYTES_PER_PAIR = 34
"""Memory of the sums, for each pair of inputs: four matrices in float64, and a little more."""


@dataclass(frozen=True)
class Solution:
    """What solving for a matrix did.

    Attributes:
        ridge: The ridge that was chosen, as a multiple of the mean square of an input; None if the
            weights stay as they were.
        before, after: Squared error over all tokens, with the weights before and after.
    """

    ridge: float | None
    before: float
    after: float


class LeastSquares:
    """Sums over tokens, from which the change of one linear module is solved for.

    `module`: its weight is [outputs, inputs]. A bias is solved for as well.
    """

    def __init__(self, module: nn.Module) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.module = module
        outputs, inputs = weight.shape
        self._inputs = inputs + (module.bias is not None)
        self._fitted = _Sums.zeros(self._inputs, outputs)
        self._held = _Sums.zeros(self._inputs, outputs)

    def add(self, inputs: Tensor, missing: Tensor) -> None:
        """Add tokens: inputs [tokens, inputs], what the outputs lack [tokens, outputs].

        Both are float32.
        """
        if inputs.shape[1] < self._inputs:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
        last = len(inputs) - len(inputs) // HELD_BACK
        self._fitted.add(inputs[:last], missing[:last])
        self._held.add(inputs[last:], missing[last:])

    def solve(self) -> Solution:
        """Change the module's weights; what that did."""
        fitted, held = self._fitted, self._held
        fitted.mirror()
        held.mirror()
        best, error = _descend(RIDGES, START, lambda ridge: held.error(fitted.trial(ridge)))
        is_better = error < held.square
        fitted.include(held)  # from here on, the sums of all tokens
        if is_better:
            change = fitted.change(best)
            after = fitted.least_error(change, best)
            if after < fitted.square:  # not if a last solution failed
                self._apply(change)
                return Solution(best, fitted.square, after)
        return Solution(None, fitted.square, fitted.square)

    def _apply(self, change: Tensor) -> None:
        weight, bias = self.module.weight, self.module.bias
        assert isinstance(weight, Tensor)
        inputs = weight.shape[1]
        weight.copy_(weight.double() + change[:inputs].T)
        if isinstance(bias, Tensor):
            bias.copy_(bias.double() + change[inputs])


def _descend(
    candidates: Sequence[float], start: int, error: Callable[[float], float]
) -> tuple[float, float]:
    """The candidate at a minimum of the error next to `start`, and its error."""
    at, least = start, error(candidates[start])
    for step in (-1, 1):
        while 0 <= at + step < len(candidates):
            found = error(candidates[at + step])
            if not found < least:
                break
            at, least = at + step, found
        if at != start:
            break
    return candidates[at], least


@dataclass
class _Sums:
    """Sums over some tokens, in float64.

    `gram`: of the inputs, [inputs, inputs]. `product`: inputs with what is missing, [inputs,
    outputs]. `square`: of what is missing.
    """

    gram: Tensor
    product: Tensor
    square: float

    @classmethod
    def zeros(cls, inputs: int, outputs: int) -> "_Sums":
        kind = torch.float64
        return cls(
            torch.zeros(inputs, inputs, dtype=kind), torch.zeros(inputs, outputs, dtype=kind), 0.0
        )

    def add(self, inputs: Tensor, missing: Tensor) -> None:
        """Add tokens. Below the blocks on its diagonal, `gram` is right only after `mirror`."""
        with torch.autocast(inputs.device.type, enabled=False):
            for first in range(0, len(self.gram), _COLUMNS):
                rows = slice(first, first + _COLUMNS)
                self.gram[rows, first:] += inputs[:, rows].T @ inputs[:, first:]
            self.product += inputs.T @ missing
        self.square += float(missing.double().square().sum())

    def mirror(self) -> None:
        """Copy the upper blocks of `gram` to the lower ones, before its sums are used."""
        for first in range(0, len(self.gram), _COLUMNS):
            after = first + _COLUMNS
            self.gram[after:, first:after] = self.gram[first:after, after:].T

    def include(self, other: "_Sums") -> None:
        """Add the sums of other tokens; both are mirrored."""
        self.gram += other.gram
        self.product += other.product
        self.square += other.square

    def trial(self, ridge: float) -> Tensor:
        """The minimum to compare ridges by; see `change`."""
        dtype = torch.float32 if ridge >= _FLOAT32_FROM else torch.float64
        return self.change(ridge, dtype).double()

    def change(self, ridge: float, dtype: torch.dtype = torch.float64) -> Tensor:
        """The minimum of |f D - r|^2 + ridge * mean(diagonal) * |D|^2; D is [inputs, outputs].

        `dtype`: that it is solved in.
        """
        size = self._damping(ridge)
        if size == 0:  # all inputs are zero, so the change has no effect
            return torch.zeros_like(self.product)
        damped = self.gram.to(dtype, copy=True)
        damped.diagonal().add_(size)
        failed = torch.zeros((), dtype=torch.int32)
        torch.linalg.cholesky_ex(damped, out=(damped, failed))  # in place
        if failed:  # the ridge is below the rounding of the sums
            return torch.zeros_like(self.product)
        return torch.cholesky_solve(self.product.to(dtype), damped)

    def error(self, change: Tensor) -> float:
        """The squared error with a change."""
        quadratic = (change * (self.gram @ change)).sum()
        return float(self.square - 2 * (change * self.product).sum() + quadratic)

    def least_error(self, change: Tensor, ridge: float) -> float:
        """`error` of the change that `change` gave for this ridge, for less work.

        At the minimum the gradient is zero, so ``gram @ D = product - damping * D``.
        """
        gain = (change * self.product).sum()
        return float(self.square - gain - self._damping(ridge) * change.square().sum())

    def _damping(self, ridge: float) -> float:
        return ridge * float(self.gram.diagonal().mean())
