"""Scores of continuations by a decoder, which reads the context of several only once.

A row holds a context and all continuations that are scored after it, such as the options of a
question. A mask lets each continuation see the context and itself, and its positions go on from the
context. So a model computes each as if it were alone, and the context once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from regrow.common.precision import Precision, autocast
from regrow.evaluation.harness.encoding import Pair
from regrow.evaluation.harness.scores import (
    Computing,
    Score,
    batches_by_size,
    padded,
    scores_of,
)
from regrow.objectives.losses.head import head_of, hidden_states

_PADDING = -1
_CHECKED = ((5, 3, 8, 2), (1, 4, 6), (7, 2), (1, 9))
"""A context and continuations that a model is checked with."""


@dataclass(frozen=True)
class _Row:
    """A context and some continuations; not both may be without tokens.

    Attributes:
        context: Its tokens.
        ends: The continuations.
    """

    context: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]

    @cached_property
    def tokens(self) -> list[int]:
        """What the model reads: the last token of a continuation is only predicted."""
        return [*self.context, *(token for end in self.ends for token in end[:-1])]

    @property
    def widths(self) -> tuple[int]:
        return (len(self.tokens),)

    @property
    def segments(self) -> list[int]:
        """For each slot 0 if it is of the context, else the number of its continuation from 1."""
        of_ends = (number for number, end in enumerate(self.ends, start=1) for _ in end[:-1])
        return [*[0] * len(self.context), *of_ends]

    @property
    def positions(self) -> list[int]:
        first = len(self.context)
        after = (first + place for end in self.ends for place in range(len(end) - 1))
        return [*range(first), *after]

    @property
    def predicting(self) -> list[list[int]]:
        """The slots that predict the tokens of each continuation."""
        last, found = len(self.context) - 1, []
        first = len(self.context)
        for end in self.ends:
            found.append([last, *range(first, first + len(end) - 1)])
            first += len(end) - 1
        return found


def decoder_scores(
    model: Any,
    pairs: Sequence[Pair],
    how: Computing,
) -> Iterator[dict[Pair, Score]]:
    """The scores of continuations after their contexts, batch by batch.

    Args:
        model: A decoder of transformers, in evaluation mode.
        pairs: Contexts and continuations, each of at least one token. Equal pairs are computed
            once.
        how: How they are computed. Of a pair that is longer than the window, the beginning of the
            context is left out, as lm-eval does.
    """
    by_context: dict[tuple[int, ...], dict[tuple[int, ...], list[Pair]]] = {}
    for pair in dict.fromkeys(pairs):
        context, end = pair
        kept = (*context, *end)[-(how.window + 1) :]
        inside = kept[: max(0, len(kept) - len(end))] or kept[:1]
        by_context.setdefault(inside, {}).setdefault(kept[len(inside) :], []).append(pair)
    most = _sliding_window(model)
    shared, alone = [], []
    for context, ends in by_context.items():
        if how.shares and len(context) + max(map(len, ends)) <= most:
            shared.append(_Row(context, tuple(ends)))
        else:
            alone += [_Row(context, (end,)) for end in ends]
    # A batch with shared rows has a mask of its own, which does not know of a sliding window.
    for batch in chain.from_iterable(batches_by_size(x, how.batch_tokens) for x in (shared, alone)):
        found = _scores(model, batch, how.precision)
        yield {
            pair: score
            for row, scores in zip(batch, found, strict=True)
            for end, score in zip(row.ends, scores, strict=True)
            for pair in by_context[row.context][end]
        }


def shares_contexts(model: Any) -> bool:
    """Whether a model computes continuations in one row as if each were alone."""
    size = model.get_input_embeddings().num_embeddings
    context, *ends = (tuple(token % size for token in each) for each in _CHECKED)
    try:
        together = _scores(model, [_Row(context, tuple(ends))], "fp32")[0]
        alone = [_scores(model, [_Row(context, (end,))], "fp32")[0][0] for end in ends]
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return False
    is_exact = next(model.parameters()).dtype == torch.float32
    return all(
        abs(ours.loglikelihood - own.loglikelihood)
        < (1e-4 if is_exact else 3e-2) * abs(own.loglikelihood)
        for ours, own in zip(together, alone, strict=True)
    )


def _scores(model: Any, rows: Sequence[_Row], precision: Precision) -> list[list[Score]]:
    """The scores of the continuations of each row."""
    device = next(model.parameters()).device
    inputs = {"input_ids": padded([row.tokens for row in rows], 0, device)}
    if any(len(row.ends) > 1 for row in rows):
        inputs["position_ids"] = padded([row.positions for row in rows], 0, device)
        segments = padded([row.segments for row in rows], _PADDING, device)
        inputs["attention_mask"] = _mask(model, segments)
    places = [(at, slots) for at, row in enumerate(rows) for slots in row.predicting]
    targets = [end for row in rows for end in row.ends]
    with torch.inference_mode(), autocast(precision, device):
        hidden = hidden_states(model, **inputs)
        found = iter(scores_of(head_of(model), hidden, places, targets))
    return [[next(found) for _ in row.ends] for row in rows]


def _mask(model: Any, segments: Tensor) -> Tensor:
    """The mask of rows with several continuations, [rows, 1, slots, slots].

    `segments`: see `_Row.segments`, [rows, slots].
    """
    mine = segments[:, :, None] == segments[:, None]
    seen = (mine | (segments == 0)[:, None]).tril()[:, None]
    if model.config._attn_implementation == "sdpa":
        return seen
    dtype = next(model.parameters()).dtype
    closed = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return closed.masked_fill_(~seen, torch.finfo(dtype).min)


def _sliding_window(model: Any) -> int:
    """The tokens that all layers see; masks of rows do not know of shorter windows."""
    config = model.config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((size for size in windows if size), default=1 << 62)
