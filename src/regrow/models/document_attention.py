"""Attention text by text.

A row of a batch holds one text or several, and often slots that are empty. torch's attention
computes all of a row and masks most of it away. Here each text is computed alone: nothing between
texts, nothing for empty slots, and no mask. On CUDA one kernel computes all texts of a batch
(`regrow.models.varlen_attention`); with dropout, and in float32, they are kept apart by a mask.

For short texts on a CPU the kernel is fed float32, since its backward pass in bfloat16 costs more
than the products save (milliseconds of one thread with AMX, torch 2.13, forward and backward, 8
heads, in bfloat16 and in float32: 100 tokens of 32: 2.4, 0.6; 340 of 32: 6.9, 4.6; 340 of 64: 9.2,
11.3; 512 of 64: 12.6, 21.6). It is more exact as well: gradients of a small OpenBA were 7% from
those in float32 throughout, and 28% with attention in bfloat16.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from regrow.models.varlen_attention import TYPES, Side, attend, side

TEXT_BY_TEXT = "text_by_text"
EMPTY = -1
"""The number of the text that an empty slot belongs to."""
_SHORT = 1 << 14
"""Tokens times the size of a head, up to which float32 is faster than bfloat16."""
_UNKNOWN = ("softcap", "s_aux", "sliding_window", "position_bias")
"""What some models pass to their attention, which is not computed here."""


class _Run(NamedTuple):
    """Slots in a row, of one text or empty: how many ask, and how many are asked."""

    queries: int
    keys: int
    is_empty: bool


class Texts(Tensor):
    """A mask with no numbers in it, [rows, 1, 0, 0]: it knows the texts of each row.

    transformers passes a mask of four dimensions on to each layer as it is.
    """

    runs: list[list[_Run]]
    is_causal: bool
    texts: tuple[Tensor, Tensor]
    """Of the slots of queries and of keys, [rows, width] each."""
    sides: tuple[Side, Side] | None
    """Queries and keys as the kernel of CUDA has them; made where they are asked for first."""
    seen: Tensor | None
    """As `seen_slots` has it; made where it is asked for first."""


def texts_mask(queries: Tensor, keys: Tensor, *, is_causal: bool) -> Texts:
    """Slots see the slots of their own text, and none sees an empty one.

    `queries`, `keys`: the number of each slot's text, or `EMPTY`, [rows, width] each; a text is one
    run of slots, and texts stand in the same order in both. `is_causal`: only those before, in
    texts that are as long in both.
    """
    mask: Texts = torch.empty(len(queries), 1, 0, 0, device=queries.device).as_subclass(Texts)
    asks = queries.cpu().numpy()
    asked = asks if keys is queries else keys.cpu().numpy()
    mask.runs = [_runs(*pair) for pair in zip(asks, asked, strict=True)]
    mask.is_causal = is_causal
    mask.texts = (queries, keys)
    mask.sides = mask.seen = None
    return mask


def seen_slots(queries: Tensor, keys: Tensor, *, is_causal: bool) -> Tensor:
    """Which slots see which, of texts as `texts_mask` has them; [rows, 1, queries, keys].

    Empty slots see all, so that none sees nothing; nothing else sees them.
    """
    seen = (queries[:, :, None] == keys[:, None]) | (queries == EMPTY)[:, :, None]
    return (seen.tril() if is_causal else seen)[:, None]


def packed_mask(position_ids: Tensor) -> Texts:
    """Texts that stand in rows without a gap; each begins at position 0. [rows, width]."""
    texts = (position_ids == 0).cumsum(dim=1)
    return texts_mask(texts, texts, is_causal=True)


def _runs(queries: NDArray[np.int64], keys: NDArray[np.int64]) -> list[_Run]:
    asks, asked = _lengths(queries), _lengths(keys)
    ends = (asks.pop(EMPTY, 0), asked.pop(EMPTY, 0))
    if list(asks) != list(asked):
        raise ValueError(f"texts {list(asks)} ask, and {list(asked)} are asked")
    runs = [_Run(length, asked[text], is_empty=False) for text, length in asks.items()]
    return [*runs, _Run(*ends, is_empty=True)] if any(ends) else runs


def _lengths(texts: NDArray[np.int64]) -> dict[int, int]:
    """By text, in order."""
    begins = np.flatnonzero(np.diff(texts, prepend=texts[0] - 1))
    lengths = np.diff(np.append(begins, len(texts)))
    names = texts[begins].tolist()
    if len(set(names)) != len(names) or EMPTY in names[:-1]:
        raise ValueError("a text is one run of slots, and empty ones stand behind all")
    return dict(zip(names, lengths.tolist(), strict=True))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers has it: [rows, heads, width, size] each, to [rows, width, heads, size].

    Empty slots get what nobody is to read. With any mask but `Texts` it is sdpa's.

    Raises NotImplementedError at what is not computed here. No training meets it: each model is
    tried first, and keeps its own attention then (`regrow.training.efficiency.attention`).
    """
    if not isinstance(attention_mask, Texts):
        plain: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )[0]
        return plain, None
    if unknown := [name for name in _UNKNOWN if kwargs.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    device = query.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    way = way_of(device, product, dropout)
    if way == "one line":
        asks, asked = _sides(attention_mask, query.shape[2], key.shape[2])
        found = attend(
            query.to(product), key.to(product), value.to(product), asks, asked,
            is_causal=attention_mask.is_causal, scaling=scaling,
        )  # fmt: skip
        return found, None
    if way == "a mask":
        if attention_mask.seen is None:  # for all layers
            attention_mask.seen = seen_slots(
                *attention_mask.texts, is_causal=attention_mask.is_causal
            )
        masked: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask.seen, dropout, scaling, **kwargs
        )[0]
        return masked, None
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    runs = attention_mask.runs
    compute = partial(
        _states, product=product, is_causal=attention_mask.is_causal, dropout=dropout,
        scaling=scaling,
    )  # fmt: skip
    if all(row == runs[0] for row in runs):
        runs = runs[:1]
        states = compute(runs[0], query, key, value)
    else:
        of_each = zip(runs, *(torch.split(each, 1) for each in (query, key, value)), strict=True)
        states = [each for row in of_each for each in compute(*row)]
    rows, heads, width, _ = query.shape
    shape = (rows, width, heads, value.shape[-1])
    joined: Tensor = _Joined.apply(runs, shape, product, *states)  # type: ignore[no-untyped-call]
    return joined, None


def way_of(
    device: str, product: torch.dtype, dropout: float
) -> Literal["text by text", "one line", "a mask"]:
    """How texts of a batch are kept apart."""
    if device == "cpu":
        return "text by text"
    return "one line" if device == "cuda" and product in TYPES and dropout == 0 else "a mask"


def _sides(mask: Texts, queries: int, keys: int) -> tuple[Side, Side]:
    """Of rows with so many slots; made once for all layers."""
    if mask.sides is None:
        held = [[run for run in row if not run.is_empty] for row in mask.runs]
        mask.sides = (
            side([[run.queries for run in row] for row in held], queries, mask.device),
            side([[run.keys for run in row] for row in held], keys, mask.device),
        )
    return mask.sides


def _states(
    runs: list[_Run],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    product: torch.dtype,
    is_causal: bool,
    dropout: float,
    scaling: float | None,
) -> list[Tensor]:
    """Of each text in rows that have the same: [rows, heads, slots, size]."""
    queries = _split(query, [run.queries for run in runs])
    keys, values = (_split(each, [run.keys for run in runs]) for each in (key, value))
    found = []
    for run, asks, asked, given in zip(runs, queries, keys, values, strict=True):
        if run.is_empty:
            continue
        is_short = max(run.queries, run.keys) * query.shape[-1] <= _SHORT
        dtype = torch.promote_types(product, torch.float32) if is_short else product
        with torch.autocast("cpu", enabled=False):
            states = nn.functional.scaled_dot_product_attention(
                asks.to(dtype), asked.to(dtype), given.to(dtype),
                dropout_p=dropout, is_causal=is_causal, scale=scaling,
            )  # fmt: skip
        found.append(states)
    return found


def _split(states: Tensor, lengths: list[int]) -> Sequence[Tensor]:
    return (states,) if len(lengths) == 1 else torch.split(states, lengths, dim=2)


class _Joined(torch.autograd.Function):
    """The states of all texts in their rows, zeros in empty slots: [rows, width, heads, size].

    `again` of its node makes them again from what attention keeps for its own backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        runs: list[list[_Run]],
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        *states: Tensor,
    ) -> Tensor:
        """`runs`: of all rows alike, or of each. `shape`, `dtype`: of the result."""
        places = list(_places(runs, shape[0]))
        ctx.places = [place for place, is_empty in places if not is_empty]
        ctx.dtypes = [each.dtype for each in states]

        def join(states: Iterable[Tensor]) -> Tensor:
            joined = torch.empty(shape, dtype=dtype)
            left = iter(states)
            for place, is_empty in places:
                if is_empty:
                    joined[place].zero_()
                else:
                    joined[place].copy_(next(left).transpose(1, 2))
            return joined.data  # as if it had never been written to

        makers = [each.grad_fn for each in states]
        if all(hasattr(maker, "_saved_output") for maker in makers):
            ctx.again = lambda: join(maker._saved_output for maker in makers)  # type: ignore[union-attr]
        return join(states)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = outer
        of_each = (
            gradient[place].transpose(1, 2).to(dtype)
            for place, dtype in zip(ctx.places, ctx.dtypes, strict=True)
        )
        return (None, None, None, *of_each)


def _places(runs: list[list[_Run]], rows: int) -> Iterator[tuple[tuple[slice, slice], bool]]:
    """Rows and slots of each run, and whether it is empty."""
    at_once = rows // len(runs)
    for number, row in enumerate(runs):
        first = 0
        for run in row:
            stop = first + run.queries
            yield (
                (slice(number * at_once, (number + 1) * at_once), slice(first, stop)),
                run.is_empty,
            )
            first = stop


def reads_text_by_text(model: Any) -> bool:
    """Whether the model's attention is this one."""
    return bool(model.config._attn_implementation == TEXT_BY_TEXT)


AttentionInterface.register(TEXT_BY_TEXT, attention)
AttentionMaskInterface.register(TEXT_BY_TEXT, sdpa_mask)
