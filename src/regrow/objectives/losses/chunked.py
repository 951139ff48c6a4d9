"""A loss over logits, computed from hidden states in blocks of tokens.

The logits of all tokens are never in memory together.

The gradients are computed in the forward pass, as in Hsu et al. 2024 ("Liger Kernel", fused linear
cross-entropy); the backward pass only scales them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BlockLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None]]
"""(logits [block, vocab], slice of the tokens in this block, whether the gradient is needed) ->
loss of each token, [block], and the gradient with respect to the logits, or None. It may overwrite
the logits."""


def summed_over_blocks(
    hidden: Tensor,
    weight: Tensor,
    block_loss: BlockLoss,
    *,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    block: int,
) -> tuple[Tensor, Tensor]:
    """The sum of a loss over all tokens, a scalar, and the loss of each token, [tokens].

    Only the sum has a gradient. Both are float32 or wider; the sum is accumulated in float64.

    ``logits = cap(scale * (hidden @ weight.T + bias))`` with ``cap(z) = softcap * tanh(z /
    softcap)``. Under autocast, matrix products are in the autocast type and the rest in float32.

    Args:
        hidden: Final hidden states, [tokens, hidden].
        weight: The head, [vocab, hidden].
        block_loss: The loss of one block of tokens.
        bias: Of the head, [vocab]; None for a head without.
        scale: Factor of the logits.
        softcap: Bound of the logits; None for no bound.
        block: Tokens in a block, whose logits are in memory together.
    """
    needs_gradient = torch.is_grad_enabled()
    both: tuple[Tensor, Tensor] = _SummedOverBlocks.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, block_loss, scale, softcap, block, needs_gradient
    )
    return both


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of the matrix product of a head with these states."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def capped_logits(
    states: Tensor, matrix: Tensor, offsets: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """Logits in float32 or wider, [tokens, vocab].

    `states`: [tokens, hidden]; `matrix`: [vocab, hidden]; `offsets`: the bias in the dtype of the
    logits, [vocab].
    """
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
    def forward(  # noqa: PLR0913 - autograd takes tensors one by one
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        block_loss: BlockLoss,
        scale: float,
        softcap: float | None,
        block: int,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        product = product_dtype(hidden)
        wide = torch.promote_types(product, torch.float32)
        states, matrix = hidden.to(product), weight.to(product)
        offsets = None if bias is None else bias.to(wide)
        for_hidden, for_weight, for_bias = (
            needs_gradient and needed for needed in ctx.needs_input_grad[:3]
        )
        d_hidden = torch.empty_like(states) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=wide) if for_weight else None
        d_bias = torch.zeros_like(offsets) if for_bias and offsets is not None else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        each = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        any_needed = for_hidden or for_weight or for_bias

        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, len(hidden), block):
                part = slice(first, first + block)
                logits = capped_logits(states[part], matrix, offsets, scale, softcap)
                slope = None
                if softcap is not None and any_needed:
                    slope = 1 - (logits / softcap).square_()
                loss, error = block_loss(logits, part, any_needed)
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
