"""Block influence (Men et al., 2024, "ShortGPT", section 3.1): the change of a layer's input."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from regrow.scoring.observe import Seen


def layer(seen: "Seen") -> "Tensor":
    """1 - cosine between the input and the output of a layer, [tokens, 1]."""
    # In float64, since influences of a few 1e-4 must be told apart.
    entering, leaving = seen.read.double(), seen.wrote.double()
    lengths = entering.square().sum(-1).sqrt() * leaving.square().sum(-1).sqrt()
    cosine = (entering * leaving).sum(-1) / lengths.clamp_min(1e-30)
    return 1 - cosine.unsqueeze(-1)
