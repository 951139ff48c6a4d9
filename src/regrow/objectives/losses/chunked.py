"""A loss of logits from hidden states, block by block of tokens, without ever holding all logits.

The gradients are computed in the forward pass, as in Hsu et al. 2024 ("Liger Kernel", fused linear
cross-entropy); the backward pass only scales them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OfBlock = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None]]
"""From logits [block, vocab], the tokens that they are of, and whether the gradient is wanted, to
the loss of each, [block], and its gradient in the logits. It may overwrite the logits."""


def summed_over_blocks(
    hidden: Tensor,
    weight: Tensor,
    of_block: OfBlock,
    *,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    block: int,
) -> tuple[Tensor, Tensor]:
    """The sum of a loss over tokens, a scalar; and that of each, [tokens], without gradient.

    Float32 or wider both; the sum is taken in float64.

    ``logits = cap(scale * (hidden @ weight.T + bias))`` with ``cap(z) = softcap * tanh(z /
    softcap)``. Under autocast the products are in autocast's type and the rest in float32.

    Args:
        hidden: Final hidden states, [tokens, hidden].
        weight: The head, [vocab, hidden].
        bias: [vocab].
        block: Tokens whose logits are in memory.
    """
    wanted = torch.is_grad_enabled()
    both: tuple[Tensor, Tensor] = _SummedOverBlocks.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, of_block, scale, softcap, block, wanted
    )
    return both


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The type in which a head multiplies these states."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def capped_logits(
    states: Tensor, matrix: Tensor, offsets: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Logits in float32 or wider, [tokens, vocab]; `offsets`: the bias, in that type."""
    logits = (states @ matrix.T).to(torch.promote_types(states.dtype, torch.float32))
    if offsets is not None:
        logits += offsets
    if scale != 1.0:
        logits *= scale
    if softcap is not None:
        logits = torch.tanh_(logits.div_(softcap)).mul_(softcap)
    return logits


class _SummedOverBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        of_block: OfBlock,
        scale: float,
        softcap: float | None,
        block: int,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        product = product_dtype(hidden)
        wide = torch.promote_types(product, torch.float32)
        states, matrix = hidden.to(product), weight.to(product)
        offsets = None if bias is None else bias.to(wide)
        for_hidden, for_weight, for_bias = (
            wanted and needed for needed in ctx.needs_input_grad[:3]
        )
        d_hidden = torch.empty_like(states) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=wide) if for_weight else None
        d_bias = torch.zeros_like(offsets) if for_bias and offsets is not None else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        each = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        any_wanted = for_hidden or for_weight or for_bias

        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, len(hidden), block):
                part = slice(first, first + block)
                logits = capped_logits(states[part], matrix, offsets, scale, softcap)
                slope = None
                if softcap is not None and any_wanted:
                    slope = 1 - (logits / softcap).square_()
                loss, error = of_block(logits, part, any_wanted)
                del logits
                total += loss.sum(dtype=torch.float64)
                each[part] = loss
                if error is None:
                    continue
                if slope is not None:
                    error *= slope
                if scale != 1.0:
                    error *= scale
                if d_bias is not None:
                    d_bias += error.sum(0)
                narrow = error.to(product)
                if d_hidden is not None:
                    torch.mm(narrow, matrix, out=d_hidden[part])
                if d_weight is not None:
                    if product == wide:
                        d_weight.addmm_(narrow.T, states[part])
                    else:
                        d_weight += narrow.T @ states[part]
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(each)
        ctx.set_materialize_grads(False)
        return total.to(wide), each

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        factor, _ = outer
        return (
            *(
                None if gradient is None else (gradient * factor).to(dtype)
                for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
            ),
            *([None] * 5),
        )
