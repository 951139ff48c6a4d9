"""The size of activations (Muralidharan et al., 2024, "Compact Language Models via Pruning and
Knowledge Distillation", section 2.2).

Each function gives [tokens, size], which is averaged over the tokens of the calibration text. One
forward pass is enough; no gradient is needed.
"""

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor

    from regrow.scoring.observe import Seen


def hidden(seen: "Seen") -> "Tensor":
    """Absolute output of a norm over the residual stream."""
    return seen.wrote.abs()


def ffn(seen: "Seen") -> "Tensor":
    """Absolute input of the down projection."""
    return seen.read.abs()


def head(seen: "Seen") -> "Tensor":
    """L2 norm of what each head adds to the residual stream through the output projection.

    The paper takes the norm of the projection's input instead. SmolLM2-135M with 6 of 9 heads
    loses 1.35 nats a token with the norm of the output, and 1.76 with the norm of the input
    (Python documentation, original 3.09).
    """
    heads = seen.read.reshape(len(seen.read), seen.size, -1).transpose(0, 1)
    weight = cast("Tensor", seen.module.weight).to(seen.read.dtype)
    by_head = weight.reshape(len(weight), seen.size, -1).permute(1, 2, 0)
    # |W x|^2 = x' (W W') x, with a small matrix a head.
    squares = ((heads @ (by_head @ by_head.transpose(1, 2))) * heads).sum(-1)
    return squares.clamp_min(0).sqrt().T


def expert(seen: "Seen") -> "Tensor":
    """L2 norm of what each expert adds to the residual stream, times its weight; 0 if not chosen.

    Lasby et al. 2025, "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression", take
    the mean over the tokens of which the expert is chosen. Here it is taken over all tokens, so
    that an expert that is rarely chosen counts little.
    """
    block = cast("Any", seen.module)
    read = seen.read.to(block.gate.weight.dtype)
    _, weights, chosen = block.gate(read)
    found = read.new_zeros(len(read), seen.size)
    for number in chosen.unique().tolist():
        tokens, places = (chosen == number).nonzero(as_tuple=True)
        only, whole = chosen[tokens, places, None], weights.new_ones(len(tokens), 1)
        wrote = block.experts(read[tokens], only, whole)
        found[tokens, number] = (weights[tokens, places] * wrote.norm(dim=-1)).to(found.dtype)
    return found
