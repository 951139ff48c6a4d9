"""Attention of many texts at once, by FlashAttention's variable-length kernel (CUDA).

The tokens of all texts stand in one sequence, without empty slots and without a mask. Queries and
keys have separate lengths, as the target and the source have in cross-attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TYPES = (torch.float16, torch.bfloat16)
"""Dtypes that the kernel supports."""
_TOLERANCE = 0.05
"""Largest relative difference from another kernel in float32; bfloat16 has 8 bits."""


@dataclass(frozen=True, eq=False)
class VarlenLayout:
    """Where the texts of a batch stand, for queries or for keys and values.

    Attributes:
        slots: Indices of the slots that belong to a text, among all slots of all rows, [tokens];
            None if all do.
        bounds: Where each text begins in the sequence, and where the last one ends, int32,
            [texts + 1].
        longest: Tokens of the longest text.
    """

    slots: Tensor | None
    bounds: Tensor
    longest: int


def varlen_layout(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> VarlenLayout:
    """The layout of rows of `width` slots.

    `rows`: the lengths of the texts in each row; empty slots are on the right.
    """
    lengths = torch.tensor([length for row in rows for length in row])
    bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    bounds[1:] = lengths.cumsum(0)
    used = torch.tensor([sum(row) for row in rows])
    slots = None
    if not (used == width).all():
        is_used = torch.arange(width) < used[:, None]
        slots = is_used.reshape(-1).nonzero()[:, 0].to(device)
    return VarlenLayout(slots, bounds.to(device), int(lengths.max()))


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, queries: VarlenLayout, keys: VarlenLayout, *,
    is_causal: bool, scaling: float | None,
) -> Tensor:  # fmt: skip
    """Attention within each text, [rows, width, heads, size]; zeros in empty slots.

    `query`, `key`, `value`: [rows, heads, width, size] each, in one of `TYPES`. Keys and values may
    have fewer heads. `queries`, `keys`: their layouts.
    """
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, width, _ = query.shape
    found = varlen_attn(
        _sequence(query, queries), _sequence(key, keys), _sequence(value, keys),
        queries.bounds, keys.bounds, queries.longest, keys.longest,
        scale=scaling, window_size=(-1, 0) if is_causal else (-1, -1),
        enable_gqa=key.shape[1] != heads,
    )  # fmt: skip
    assert isinstance(found, Tensor)  # it is a pair only if auxiliary outputs are requested
    if queries.slots is not None:
        empty = found.new_zeros(rows * width, heads, found.shape[-1])
        found = empty.index_copy(0, queries.slots, found)
    return found.reshape(rows, width, heads, -1)


def _sequence(states: Tensor, layout: VarlenLayout) -> Tensor:
    """The tokens of all texts in one sequence, [tokens, heads, size]."""
    slots = states.transpose(1, 2).flatten(0, 1)
    return slots if layout.slots is None else slots.index_select(0, layout.slots)


def supports_varlen(
    device: torch.device, dtype: torch.dtype, heads: int, group_size: int, head_dim: int
) -> bool:
    """Whether this device has the kernel for such heads, and its results are right.

    Outputs and gradients are compared with those of another kernel. `group_size`: query heads for
    each key-value head.
    """
    generator = torch.Generator().manual_seed(0)

    def random_states(heads: int, width: int) -> Tensor:
        states = torch.randn(1, heads, width, head_dim, generator=generator)
        return states.to(device, dtype).requires_grad_()

    def is_right(query_lengths: list[int], key_lengths: list[int], scaling: float | None) -> bool:
        """Check a row of two texts and an empty slot; causal if queries and keys are as long."""
        query_width, key_width = sum(query_lengths) + 1, sum(key_lengths) + 1
        is_causal = query_lengths == key_lengths
        query = random_states(heads, query_width)
        key, value = (random_states(heads // group_size, key_width) for _ in range(2))
        outer = torch.randn(1, query_width, heads, head_dim, generator=generator).to(device, dtype)
        ours = varlen_attention(
            query, key, value,
            varlen_layout([query_lengths], query_width, device),
            varlen_layout([key_lengths], key_width, device),
            is_causal=is_causal, scaling=scaling,
        )  # fmt: skip
        found = [ours, *torch.autograd.grad(ours, (query, key, value), outer)]
        # The reference: one text after the other, by another kernel, in float32.
        leaves = [states.detach().float().requires_grad_() for states in (query, key, value)]
        repeated = [
            leaves[0], *(each.repeat_interleave(group_size, dim=1) for each in leaves[1:])
        ]  # fmt: skip
        texts = [
            torch.split(each, [*lengths, 1], dim=2)[:2]
            for each, lengths in zip(
                repeated, (query_lengths, key_lengths, key_lengths), strict=True
            )
        ]
        states = [
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=is_causal, scale=scaling
            )
            for q, k, v in zip(*texts, strict=True)
        ]
        empty = torch.zeros_like(repeated[0][:, :, -1:])
        theirs = torch.cat([*states, empty], dim=2).transpose(1, 2)
        expected = [theirs, *torch.autograd.grad(theirs, leaves, outer.float())]
        pairs = zip(found, expected, strict=True)
        return all(bool((a.float() - b).norm() <= _TOLERANCE * b.norm()) for a, b in pairs)

    try:
        return is_right([2, 4], [3, 5], None) and is_right([3, 4], [3, 4], 0.3)
    except (ImportError, NotImplementedError, RuntimeError, ValueError):
        return False
