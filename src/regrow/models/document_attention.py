"""Document attention: tokens attend only within their own text.

A row of a batch holds one text or several, and may have empty slots. torch's attention computes a
whole row and masks most of it away. Here each text is computed alone, so no work is done between
texts or for empty slots, and no mask is needed. On CUDA one kernel computes all texts of a batch
(`regrow.models.varlen_attention`). That kernel has neither dropout nor float32; there a dense mask
separates the texts.

On a CPU, short texts are computed in float32, since the backward pass of torch's kernel in bfloat16
costs more than the faster products save. Milliseconds of one thread with AMX, torch 2.13, forward
and backward, 8 heads:

| tokens, head size | bfloat16 | float32 |
|---|---|---|
| 100, 32 | 2.4 | 0.6 |
| 340, 32 | 6.9 | 4.6 |
| 340, 64 | 9.2 | 11.3 |
| 512, 64 | 12.6 | 21.6 |

It is also more exact: the gradients of a small OpenBA differed by 7% from those in float32
throughout, and by 28% with attention in bfloat16.
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

from regrow.models.varlen_attention import (
    TYPES,
    VarlenLayout,
    varlen_attention,
    varlen_layout,
)

DOCUMENT_ATTENTION = "document_attention"
"""The name of this attention for transformers (`set_attn_implementation`)."""
EMPTY = -1
"""The text number of an empty slot."""
_FLOAT32_MAX_SIZE = 1 << 14
"""Tokens times head size, up to which float32 is faster than bfloat16 on a CPU."""
_UNSUPPORTED = ("softcap", "s_aux", "sliding_window", "position_bias")
"""Arguments that some models pass to their attention and that are not supported here."""


class _Run(NamedTuple):
    """Consecutive slots of one text, or empty ones: how many queries, and how many keys."""

    queries: int
    keys: int
    is_empty: bool


class TextMask(Tensor):
    """A mask without elements, [rows, 1, 0, 0], that holds the texts of each row as attributes.

    It has four dimensions, since transformers passes such a mask unchanged to each layer.
    """

    runs: list[list[_Run]]
    is_causal: bool
    texts: tuple[Tensor, Tensor]
    """The text number of each query slot and each key slot, [rows, width] each."""
    layouts: tuple[VarlenLayout, VarlenLayout] | None
    """Layouts of queries and keys for the varlen kernel; computed by the first layer."""
    dense: Tensor | None
    """The `dense_mask` of the texts; computed by the first layer."""


def text_mask(queries: Tensor, keys: Tensor, *, is_causal: bool) -> TextMask:
    """A mask in which slots see only the slots of their own text; none sees an empty slot.

    `queries`, `keys`: the text number of each slot, or `EMPTY`, [rows, width] each. The slots of a
    text are consecutive, and the texts have the same order in both. `is_causal`: a slot also sees
    no later slot; each text must then have as many queries as keys.

    Raises ValueError if the texts of queries and keys differ.
    """
    mask: TextMask = torch.empty(len(queries), 1, 0, 0, device=queries.device).as_subclass(TextMask)
    query_texts = queries.cpu().numpy()
    key_texts = query_texts if keys is queries else keys.cpu().numpy()
    mask.runs = [_runs(*pair) for pair in zip(query_texts, key_texts, strict=True)]
    mask.is_causal = is_causal
    mask.texts = (queries, keys)
    mask.layouts = mask.dense = None
    return mask


def dense_mask(queries: Tensor, keys: Tensor, *, is_causal: bool) -> Tensor:
    """The mask of `text_mask` as booleans, True where a query sees a key.

    Its shape is [rows, 1, queries, keys]. An empty query slot sees all keys, since softmax over no
    key would give NaN. Other slots do not see empty ones.
    """
    seen = (queries[:, :, None] == keys[:, None]) | (queries == EMPTY)[:, :, None]
    return (seen.tril() if is_causal else seen)[:, None]


def packed_mask(position_ids: Tensor) -> TextMask:
    """The causal mask of rows that are packed with texts, without empty slots.

    `position_ids`: [rows, width]; each text begins at position 0.
    """
    texts = (position_ids == 0).cumsum(dim=1)
    return text_mask(texts, texts, is_causal=True)


def _runs(queries: NDArray[np.int64], keys: NDArray[np.int64]) -> list[_Run]:
    query_lengths, key_lengths = _lengths(queries), _lengths(keys)
    empty = (query_lengths.pop(EMPTY, 0), key_lengths.pop(EMPTY, 0))
    if list(query_lengths) != list(key_lengths):
        raise ValueError(f"queries of texts {list(query_lengths)}, keys of {list(key_lengths)}")
    runs = [
        _Run(length, key_lengths[text], is_empty=False) for text, length in query_lengths.items()
    ]
    return [*runs, _Run(*empty, is_empty=True)] if any(empty) else runs


def _lengths(texts: NDArray[np.int64]) -> dict[int, int]:
    """The length of each text of a row, in order, by text number."""
    begins = np.flatnonzero(np.diff(texts, prepend=texts[0] - 1))
    lengths = np.diff(np.append(begins, len(texts)))
    names = texts[begins].tolist()
    if len(set(names)) != len(names) or EMPTY in names[:-1]:
        raise ValueError("the slots of a text must be consecutive, and empty slots come last")
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
    """Attention with the interface of transformers, [rows, width, heads, size].

    `query`, `key`, `value`: [rows, heads, width, size] each. With any mask but a `TextMask` this is
    transformers' sdpa attention. The values in empty slots have no meaning.

    Raises NotImplementedError for arguments that are not supported. This does not happen in a
    training: it tries document attention first, and if that fails the model keeps its own attention
    (`regrow.training.efficiency.attention`).
    """
    if not isinstance(attention_mask, TextMask):
        plain: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )[0]
        return plain, None
    if given := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(given)}")
    device = query.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    method = attention_method(device, product, dropout)
    if method == "varlen":
        query_layout, key_layout = _layouts(attention_mask, query.shape[2], key.shape[2])
        found = varlen_attention(
            query.to(product), key.to(product), value.to(product), query_layout, key_layout,
            is_causal=attention_mask.is_causal, scaling=scaling,
        )  # fmt: skip
        return found, None
    if method == "mask":
        if attention_mask.dense is None:  # computed once for all layers
            attention_mask.dense = dense_mask(
                *attention_mask.texts, is_causal=attention_mask.is_causal
            )
        masked: Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask.dense, dropout, scaling, **kwargs
        )[0]
        return masked, None
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    runs = attention_mask.runs
    compute = partial(
        _attend_each_text, product=product, is_causal=attention_mask.is_causal, dropout=dropout,
        scaling=scaling,
    )  # fmt: skip
    if all(row == runs[0] for row in runs):
        runs = runs[:1]
        states = compute(runs[0], query, key, value)
    else:
        by_row = zip(runs, *(torch.split(each, 1) for each in (query, key, value)), strict=True)
        states = [each for row in by_row for each in compute(*row)]
    rows, heads, width, _ = query.shape
    shape = (rows, width, heads, value.shape[-1])
    joined: Tensor = _JoinTexts.apply(runs, shape, product, *states)  # type: ignore[no-untyped-call]
    return joined, None


def attention_method(
    device: str, product: torch.dtype, dropout: float
) -> Literal["each text", "varlen", "mask"]:
    """How the texts of a batch are separated: one call for each text, varlen kernel, or mask."""
    if device == "cpu":
        return "each text"
    return "varlen" if device == "cuda" and product in TYPES and dropout == 0 else "mask"


def _layouts(mask: TextMask, queries: int, keys: int) -> tuple[VarlenLayout, VarlenLayout]:
    """The layouts of rows with so many query and key slots; computed once for all layers."""
    if mask.layouts is None:
        texts = [[run for run in row if not run.is_empty] for row in mask.runs]
        mask.layouts = (
            varlen_layout([[run.queries for run in row] for row in texts], queries, mask.device),
            varlen_layout([[run.keys for run in row] for row in texts], keys, mask.device),
        )
    return mask.layouts


def _attend_each_text(  # noqa: PLR0913 - the arguments of an attention function
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
    """The states of each text, [rows, heads, slots, size], in rows with the same runs."""
    queries = _split(query, [run.queries for run in runs])
    keys, values = (_split(each, [run.keys for run in runs]) for each in (key, value))
    found = []
    for run, q, k, v in zip(runs, queries, keys, values, strict=True):
        if run.is_empty:
            continue
        is_short = max(run.queries, run.keys) * query.shape[-1] <= _FLOAT32_MAX_SIZE
        dtype = torch.promote_types(product, torch.float32) if is_short else product
        with torch.autocast("cpu", enabled=False):
            states = nn.functional.scaled_dot_product_attention(
                q.to(dtype), k.to(dtype), v.to(dtype),
                dropout_p=dropout, is_causal=is_causal, scale=scaling,
            )  # fmt: skip
        found.append(states)
    return found


def _split(states: Tensor, lengths: list[int]) -> Sequence[Tensor]:
    return (states,) if len(lengths) == 1 else torch.split(states, lengths, dim=2)


class _JoinTexts(torch.autograd.Function):
    """Place the states of all texts in their rows, [rows, width, heads, size]; zeros elsewhere.

    The method `recompute` of its autograd node places them again, from the outputs that attention
    saves for its own backward pass (`regrow.training.efficiency.saved_tensors`).
    """

    @staticmethod
    def forward(
        ctx: Any,
        runs: list[list[_Run]],
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        *states: Tensor,
    ) -> Tensor:
        """`runs`: of each row, or one list for all rows. `shape`, `dtype`: of the result."""
        slices = list(_slices(runs, shape[0]))
        ctx.slices = [where for where, is_empty in slices if not is_empty]
        ctx.dtypes = [each.dtype for each in states]

        def join(states: Iterable[Tensor]) -> Tensor:
            joined = torch.empty(shape, dtype=dtype)
            remaining = iter(states)
            for where, is_empty in slices:
                if is_empty:
                    joined[where].zero_()
                else:
                    joined[where].copy_(next(remaining).transpose(1, 2))
            return joined.data  # with version 0, as a tensor that was never edited in place

        nodes = [each.grad_fn for each in states]
        if all(hasattr(node, "_saved_output") for node in nodes):
            ctx.recompute = lambda: join(node._saved_output for node in nodes)  # type: ignore[union-attr]
        return join(states)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = outer
        by_text = (
            gradient[where].transpose(1, 2).to(dtype)
            for where, dtype in zip(ctx.slices, ctx.dtypes, strict=True)
        )
        return (None, None, None, *by_text)


def _slices(runs: list[list[_Run]], rows: int) -> Iterator[tuple[tuple[slice, slice], bool]]:
    """The slices of rows and of slots of each run, and whether it is empty."""
    rows_per_run = rows // len(runs)
    for number, row in enumerate(runs):
        first = 0
        for run in row:
            stop = first + run.queries
            yield (
                (slice(number * rows_per_run, (number + 1) * rows_per_run), slice(first, stop)),
                run.is_empty,
            )
            first = stop


def uses_document_attention(model: Any) -> bool:
    """Whether the model uses document attention."""
    return bool(model.config._attn_implementation == DOCUMENT_ATTENTION)


AttentionInterface.register(DOCUMENT_ATTENTION, attention)
AttentionMaskInterface.register(DOCUMENT_ATTENTION, sdpa_mask)
