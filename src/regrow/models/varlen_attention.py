"""Attention of many texts at once, by FlashAttention's kernel for texts of any length (CUDA).

Tokens of all texts stand in one line, with nothing for empty slots and no mask. Queries and keys
have lengths of their own, as those of a decoder and the sources that it asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TYPES = (torch.float16, torch.bfloat16)
"""What the kernel multiplies."""
_APART = 0.05
"""Of what another kernel gives in float32; bfloat16 has 8 bits."""


@dataclass(frozen=True, eq=False)
class Side:
    """Queries, or keys and values.

    Attributes:
        slots: Those that are of a text among all slots of all rows, [tokens]; None where all are.
        bounds: Where each text begins in the line, and where the last ends, int32, [texts + 1].
        longest: Tokens of the longest text.
    """

    slots: Tensor | None
    bounds: Tensor
    longest: int


def side(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> Side:
    """`rows`: the lengths of the texts in each row, which stand on the left of `width` slots."""
    lengths = torch.tensor([length for row in rows for length in row])
    bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    bounds[1:] = lengths.cumsum(0)
    held = torch.tensor([sum(row) for row in rows])
    slots = None
    if not (held == width).all():
        is_held = torch.arange(width) < held[:, None]
        slots = is_held.reshape(-1).nonzero()[:, 0].to(device)
    return Side(slots, bounds.to(device), int(lengths.max()))


def attend(
    query: Tensor, key: Tensor, value: Tensor, asks: Side, asked: Side, *,
    is_causal: bool, scaling: float | None,
) -> Tensor:  # fmt: skip
    """[rows, heads, width, size] each, to [rows, width, heads, size]; zeros in empty slots.

    Keys and values may have fewer heads. All in one of `TYPES`.
    """
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, width, _ = query.shape
    found = varlen_attn(
        _line(query, asks), _line(key, asked), _line(value, asked),
        asks.bounds, asked.bounds, asks.longest, asked.longest,
        scale=scaling, window_size=(-1, 0) if is_causal else (-1, -1),
        enable_gqa=key.shape[1] != heads,
    )  # fmt: skip
    assert isinstance(found, Tensor)  # a pair where more is asked for
    if asks.slots is not None:
        empty = found.new_zeros(rows * width, heads, found.shape[-1])
        found = empty.index_copy(0, asks.slots, found)
    return found.reshape(rows, width, heads, -1)


def _line(states: Tensor, of: Side) -> Tensor:
    """[tokens, heads, size]"""
    each = states.transpose(1, 2).flatten(0, 1)
    return each if of.slots is None else each.index_select(0, of.slots)


def computes(device: torch.device, dtype: torch.dtype, heads: int, groups: int, size: int) -> bool:
    """Whether this device has the kernel for such heads, and what it gives is right.

    `groups`: heads to each of keys and values.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int, width: int) -> Tensor:
        states = torch.randn(1, heads, width, size, generator=generator)
        return states.to(device, dtype).requires_grad_()

    def is_right(asks: list[int], asked: list[int], scaling: float | None) -> bool:
        """Two texts with so many queries and keys, and an empty slot; causal where they are one."""
        queries, keys, is_causal = sum(asks) + 1, sum(asked) + 1, asks == asked
        query, key, value = drawn(heads, queries), *(drawn(heads // groups, keys) for _ in range(2))
        outer = torch.randn(1, queries, heads, size, generator=generator).to(device, dtype)
        ours = attend(
            query, key, value, side([asks], queries, device), side([asked], keys, device),
            is_causal=is_causal, scaling=scaling,
        )  # fmt: skip
        found = [ours, *torch.autograd.grad(ours, (query, key, value), outer)]
        # Texts one after the other, by another kernel, in float32.
        parts = [states.detach().float().requires_grad_() for states in (query, key, value)]
        wide = [parts[0], *(each.repeat_interleave(groups, dim=1) for each in parts[1:])]
        texts = [
            torch.split(each, [*lengths, 1], dim=2)[:2]
            for each, lengths in zip(wide, (asks, asked, asked), strict=True)
        ]
        states = [
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=is_causal, scale=scaling
            )
            for q, k, v in zip(*texts, strict=True)
        ]
        theirs = torch.cat([*states, torch.zeros_like(wide[0][:, :, -1:])], dim=2).transpose(1, 2)
        expected = [theirs, *torch.autograd.grad(theirs, parts, outer.float())]
        pairs = zip(found, expected, strict=True)
        return all(bool((a.float() - b).norm() <= _APART * b.norm()) for a, b in pairs)

    try:
        return is_right([2, 4], [3, 5], None) and is_right([3, 4], [3, 4], 0.3)
    except (ImportError, NotImplementedError, RuntimeError, ValueError):
        return False
