"""Cross-entropy from hidden states; the logits of all tokens are never in memory together.

It is used for all heads. For heads without scale and soft-cap PyTorch has
`torch.nn.functional.linear_cross_entropy`, but on a CPU this is slower: 2.4 times the CPU time
under bf16 autocast, where it computes in float32 (8.2 s to 3.4 s, forward and backward, 2,048
tokens, a head of 49,152 x 576, one thread), and 1.8 times in float32.
"""

from torch import Tensor

from regrow.objectives.losses.chunked import summed_over_blocks

LOGITS_AT_ONCE = 1 << 25
"""Upper bound on the number of logits in a block; 128 MiB in float32."""
_HIDDEN_SIZES_AT_ONCE = 1
"""Upper bound on the tokens in a block, in multiples of the hidden size. With that many tokens,
adding up the head's gradient over blocks costs little compared with the logits."""


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
    """Cross-entropy ``-log softmax(logits)[target]`` in nats: the sum, and each token's, [tokens].

    Only the sum has a gradient. For the logits and the dtypes see `summed_over_blocks`.

    Args:
        hidden: Final hidden states, [tokens, hidden].
        weight: The head, [vocab, hidden].
        targets: Token ids, int64, [tokens].
        bias: Of the head, [vocab]; None for a head without.
        scale: Factor of the logits.
        softcap: Bound of the logits; None for no bound.
        logits_at_once: Upper bound on the number of logits in memory.
    """

    def block_loss(
        logits: Tensor, part: slice, needs_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        # In place: logits are the largest tensor of a training step.
        logits -= logits.amax(-1, keepdim=True)
        target = targets[part, None]
        of_target = logits.gather(1, target)
        total = logits.exp_().sum(-1, keepdim=True)
        loss = (total.log() - of_target)[:, 0]
        if not needs_gradient:
            return loss, None
        logits /= total
        return loss, logits.scatter_add_(1, target, logits.new_full(target.shape, -1.0))

    return summed_over_blocks(
        hidden, weight, block_loss, bias=bias, scale=scale, softcap=softcap,
        block=max(1, min(logits_at_once // len(weight), _HIDDEN_SIZES_AT_ONCE * weight.shape[1])),
    )  # fmt: skip
