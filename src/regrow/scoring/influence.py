"""How much a layer changes what passes through it (Men et al., 2024, "ShortGPT", section 3.1)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def layer(module: "nn.Module", read: "Tensor", wrote: "Tensor", size: int) -> "Tensor":
    """Block influence: 1 - cosine between what enters and what leaves, [tokens, 1]."""
    # In float64, since influences of a few 1e-4 are told apart.
    entering, leaving = read.double(), wrote.double()
    lengths = entering.square().sum(-1).sqrt() * leaving.square().sum(-1).sqrt()
    cosine = (entering * leaving).sum(-1) / lengths.clamp_min(1e-30)
    return 1 - cosine.unsqueeze(-1)
