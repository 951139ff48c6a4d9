"""How strongly an axis is at work on a text (Muralidharan et al., 2024, "Compact Language Models
via Pruning and Knowledge Distillation", section 2.2).

All are means over tokens of what the next module reads, so no gradient is needed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def hidden(module: "nn.Module", read: "Tensor", wrote: "Tensor", size: int) -> "Tensor":
    """Absolute output of a norm over the residual stream, [tokens, size]."""
    return wrote.abs()


def ffn(module: "nn.Module", read: "Tensor", wrote: "Tensor", size: int) -> "Tensor":
    """Absolute input of the down projection, [tokens, size]."""
    return read.abs()


def head(module: "nn.Module", read: "Tensor", wrote: "Tensor", size: int) -> "Tensor":
    """L2 norm of each head's output, which the output projection reads, [tokens, size]."""
    by_head = read.reshape(len(read), size, -1)
    return by_head.square().sum(-1).sqrt()
