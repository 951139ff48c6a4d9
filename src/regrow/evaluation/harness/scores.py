"""What is known of a continuation after its context, and batches to compute it in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from regrow.common.precision import Precision
from regrow.objectives.losses.head import Head

_LOGITS = 1 << 25
"""Logits that are in memory at once: 128 MiB in float32."""


_ENOUGH = 1 / 8
"""The share of a full batch at which a device works at full speed."""
_ALIKE = 0.92
"""The share of the slots of a larger batch that is not padding."""
_STEP = 8
"""Widths of an encoder that count as equal when a decoder's widths are sorted."""


@dataclass(frozen=True)
class Score:
    """How likely a model finds a continuation.

    Attributes:
        loglikelihood: Natural logarithm of its probability: the sum over its tokens.
        is_greedy: Whether each of its tokens is the most likely one.
        tokens: Its tokens.
    """

    loglikelihood: float
    is_greedy: bool
    tokens: int


@dataclass(frozen=True)
class Computing:
    """How scores are computed.

    Attributes:
        window: The most tokens that a model reads.
        batch_tokens: Upper bound on the slots of a batch, padding included.
        precision: Of the matrix products.
        shares: Whether the model computes several continuations in a row as if each were alone.
    """

    window: int
    batch_tokens: int
    precision: Precision
    shares: bool


class Sized(Protocol):
    """Something that takes slots of a batch.

    `widths`: the slots of its rows, such as that of an encoder and that of a decoder.
    """

    @property
    def widths(self) -> tuple[int, ...]: ...


Row = TypeVar("Row", bound=Sized)


def batches_by_size(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Batches of rows of similar sizes, the largest first.

    A batch ends early at a row that would be padded much, once it has enough tokens for a device to
    work at full speed.

    `batch_tokens`: upper bound on the slots of a batch, padding included. A batch has at least one
    row.
    """
    batch: list[Row] = []
    used = 0
    widest: tuple[int, ...] = ()
    for row in sorted(rows, key=_size):
        wider = tuple(map(max, zip(row.widths, widest, strict=True))) if batch else row.widths
        slots = (len(batch) + 1) * sum(wider)
        is_padded = used + sum(row.widths) < _ALIKE * slots
        is_enough = len(batch) * sum(widest) >= batch_tokens * _ENOUGH
        if batch and (slots > batch_tokens or (is_enough and is_padded)):
            yield batch
            batch, used, wider = [], 0, row.widths
        batch.append(row)
        used, widest = used + sum(row.widths), wider
    if batch:
        yield batch


def _size(row: Sized) -> tuple[int, ...]:
    """Sorts the largest first: by the first width in steps, then by the others."""
    first, *others = row.widths
    return (-first // (_STEP if others else 1), *(-width for width in others))


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """[rows, longest], filled up on the right."""
    width = max(map(len, rows))
    filled = [[*row, *[value] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long, device=device)


def scores_of(
    head: Head, hidden: Tensor, places: Sequence[tuple[int, Sequence[int]]], targets: Sequence[Any]
) -> list[Score]:
    """The scores of some continuations.

    Args:
        head: The model's head.
        hidden: Its inputs, [rows, slots, hidden].
        places: The row of each continuation, and the slots whose states predict its tokens.
        targets: The tokens of each continuation.
    """
    device = hidden.device
    rows = torch.tensor([row for row, slots in places for _ in slots], device=device)
    columns = torch.tensor([slot for _, slots in places for slot in slots], device=device)
    wanted = torch.tensor([token for tokens in targets for token in tokens], device=device)
    at_once = max(1, _LOGITS // len(head.weight))
    sums, hits = [], []
    for first in range(0, len(wanted), at_once):
        some = slice(first, first + at_once)
        logits = head.logits(hidden[rows[some], columns[some]]).float()
        tokens = wanted[some, None]
        chosen = logits.gather(1, tokens)
        sums.append((chosen - logits.logsumexp(1, keepdim=True))[:, 0].cpu())
        hits.append((logits.argmax(1, keepdim=True) == tokens)[:, 0].cpu())
    found = []
    place = 0
    every, greedy = torch.cat(sums).double(), torch.cat(hits)
    for tokens in targets:
        part = slice(place, place + len(tokens))
        found.append(Score(every[part].sum().item(), bool(greedy[part].all()), len(tokens)))
        place += len(tokens)
    return found
