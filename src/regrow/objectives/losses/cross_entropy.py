"""Next-token loss from hidden states, without ever holding all logits.

It serves all heads, plain ones too: under bf16 autocast on a CPU
`torch.nn.functional.linear_cross_entropy` works in float32 and took 2.4 times the CPU time (8.2 s
to 3.4 s, forward and backward, 2,048 tokens, a head of 49,152 x 576, one thread); in float32 it
took 1.8 times.
"""

from torch import Tensor

from regrow.objectives.losses.chunked import summed_over_blocks

LOGITS_AT_ONCE = 1 << 25
"""Bound on the logits in a block; 128 MiB in float32."""
_HIDDEN_SIZES_AT_ONCE = 1
"""Tokens in a block over the size of a hidden state: adding a block's gradient of the head to that
of the others then costs little beside its logits."""


def summed_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """The sum over tokens of -log softmax(logits)[target], in nats; and that of each, [tokens].

    Only the sum has a gradient. Logits and types: as `summed_over_blocks` has them.

    Args:
        hidden: Final hidden states, [tokens, hidden].
        weight: The head, [vocab, hidden].
        targets: Token ids, int64, [tokens], each within the vocabulary.
        bias: [vocab].
        logits_at_once: Upper bound on the logits in memory.
    """

    def of_block(logits: Tensor, part: slice, wanted: bool) -> tuple[Tensor, Tensor | None]:
        # In place, since logits are the largest of all that a training step holds.
        logits -= logits.amax(-1, keepdim=True)
        target = targets[part, None]
        of_target = logits.gather(1, target)
        total = logits.exp_().sum(-1, keepdim=True)
        loss = (total.log() - of_target)[:, 0]
        if not wanted:
            return loss, None
        logits /= total
        return loss, logits.scatter_add_(1, target, logits.new_full(target.shape, -1.0))

    return summed_over_blocks(
        hidden, weight, of_block, bias=bias, scale=scale, softcap=softcap,
        block=max(1, min(logits_at_once // len(weight), _HIDDEN_SIZES_AT_ONCE * weight.shape[1])),
    )  # fmt: skip
