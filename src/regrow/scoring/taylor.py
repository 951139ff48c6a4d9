"""First-order Taylor scores (Molchanov et al., 2019, "Importance Estimation for Neural Network
Pruning", section 3.1).

To first order, the loss changes by activation times gradient when an activation is set to 0. The
paper puts a gate of 1 behind each activation and takes the gradient of the gate, which is this
product. The paper sums over positions and squares. Here each function gives the absolute value of
each token, [tokens, size], which is averaged over tokens.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from regrow.scoring.observe import Seen


def hidden(seen: "Seen") -> "Tensor":
    """The change of the loss without a channel of the output of a norm."""
    return _change(seen, seen.wrote)


def ffn_or_head(seen: "Seen") -> "Tensor":
    """The change of the loss without an input of the down projection, or without all inputs of
    the output projection that come from one head."""
    return _change(seen, seen.read)


def _change(seen: "Seen", activations: "Tensor") -> "Tensor":
    assert seen.gradient is not None
    products = activations * seen.gradient
    return products.reshape(len(products), seen.size, -1).sum(-1).abs()
