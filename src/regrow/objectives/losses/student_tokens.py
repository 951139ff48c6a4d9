"""The tokens of a student, as a teacher with a larger vocabulary knows them.

After a cut of the vocabulary a student spells some tokens of its teacher with several of its own,
their pieces. A teacher that read the pieces would read text as it never was in its training, and
predict other words. So where the student reads all pieces of a token, the teacher reads the token.
What the teacher predicts is moved to the student's tokens: the first piece of a token gets the
token's probability. About the pieces that follow the first, the teacher says nothing.

Pieces are joined to the longest token that they spell. In a few of a thousand tokens the teacher's
own tokenizer divides the text differently. A text that begins inside a token (at the edge of a row,
or in a noise span) is read as if a word began there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrow.common.identity import identity_of
from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.losses.loss import TensorBatch
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.single_row import NOT_IN_PREFIX

_ALONG: Mapping[str, Mapping[str, int]] = {
    "input_ids": {"attention_mask": 0, "blocks": NOT_IN_PREFIX, "source_texts": NO_TEXT},
    "decoder_input_ids": {"target_texts": NO_TEXT},
}
"""The arrays that a model reads as token ids. With each, the arrays that have a number for each of
these tokens, and that number in an empty slot. Pieces of one token have the same numbers."""
_OTHERS = frozenset({"labels", "position_ids", "examples"})
"""The other arrays of a batch. `examples` are not read for a prediction."""
_Trie = dict[int | None, Any]
"""What may follow some pieces: by the next piece, the trie behind it; by None, the token that the
pieces spell."""
_Ids = NDArray[np.int64]
_Flags = NDArray[np.bool_]


class _Rows(NamedTuple):
    """Rows of a student as its teacher reads them, by the student's slots, [rows, width].

    `tokens`: the teacher's token that begins at a slot. `last`: the slot of its last piece.
    `begins`: whether one begins there. `is_told`: whether the teacher says what follows a slot.
    """

    tokens: _Ids
    last: _Ids
    begins: _Flags
    is_told: _Flags

    def moved(self, before: _Ids, empty: int) -> _Ids:
        """The values where tokens begin, moved to the front of their row; then empty slots."""
        order = np.argsort(~self.begins, axis=1, kind="stable")
        found = np.take_along_axis(before, order, axis=1)
        found[np.arange(found.shape[1]) >= self.begins.sum(1, keepdims=True)] = empty
        return found


@dataclass(frozen=True, eq=False)
class StudentTokens:
    """The tokens of a student in the ids of its teacher.

    Attributes:
        rows: The teacher's id of each token of the student, [student's vocab].
        pieces: For a token that the student lacks, by the teacher's id: the tokens of the student
            that spell it (`regrow.tokenizers.spellings`).
        unjoined: Those of these tokens whose pieces the teacher reads. Whether a tokenizer joins
            spaces and line breaks depends on what follows them.
        padding: How many of the last ids of the student are no tokens.
    """

    rows: Tensor
    pieces: Mapping[int, tuple[int, ...]]
    unjoined: Collection[int] = frozenset()
    padding: int = 0

    def probabilities(self, of_teacher: Tensor) -> Tensor:
        """Of the student's tokens, [tokens, student's vocab].

        `of_teacher`: the probabilities of the teacher's tokens, [tokens, teacher's vocab]. Those
        that the student can neither read nor spell do not count; the others sum to 1.
        """
        found = of_teacher[:, self.rows]
        found[:, len(self.rows) - self.padding :] = 0
        found.index_add_(1, self._first_pieces, of_teacher[:, self._spelled])
        return found.div_(found.sum(-1, keepdim=True).clamp_min_(torch.finfo(found.dtype).tiny))

    @cached_property
    def identity(self) -> str:
        padding = {"padding": self.padding} if self.padding else {}
        return identity_of(
            "student tokens", rows=self.rows, pieces=self.pieces, unjoined=sorted(self.unjoined),
            **padding,
        )  # fmt: skip

    def for_teacher(self, batch: TensorBatch) -> tuple[TensorBatch, Tensor]:
        """A batch as the teacher reads it, and which predicted tokens it predicts too.

        Each slot of the new batch holds a token of the teacher. Rows are as wide as before, with
        empty slots at their end. Pieces of different texts, or of a prefix and what follows it, are
        not joined.

        Returns:
            The batch, and [tokens] in the order of its labels.
        """
        names = [name for name in _ALONG if name in batch]
        along = {name: [each for each in _ALONG[name] if each in batch] for name in names}
        if unknown := batch.keys() - _OTHERS - along.keys() - {*chain(*along.values())}:
            raise ValueError(f"arrays that no teacher can read: {', '.join(sorted(unknown))}")
        given: dict[str, _Ids] = {name: tensor.cpu().numpy() for name, tensor in batch.items()}
        found: dict[str, _Ids] = {}
        for name in names:
            positions = given.get("position_ids") if name == "input_ids" else None
            restarts = np.zeros(given[name].shape, dtype=bool)
            if positions is not None:
                restarts[:, 1:] = np.diff(positions) != 1
            is_apart = restarts.copy()
            for each in along[name]:
                is_apart[:, 1:] |= np.diff(given[each]) != 0
            labels = given["labels"] if name == names[-1] else np.full_like(given[name], -1)
            rows = self._joined(given[name], is_apart, labels)
            found[name] = rows.moved(rows.tokens, 0)
            for each in along[name]:
                found[each] = rows.moved(given[each], _ALONG[name][each])
            if positions is not None:
                found["position_ids"] = _positions(positions, restarts, rows)
        told = np.where(rows.is_told, given["labels"], NOT_PREDICTED)
        found["labels"] = rows.moved(np.take_along_axis(told, rows.last, axis=1), NOT_PREDICTED)
        device = batch["labels"].device
        is_told = torch.from_numpy(rows.is_told[given["labels"] != NOT_PREDICTED])
        read = {name: torch.from_numpy(array).to(device) for name, array in found.items()}
        return batch | read, is_told.to(device)

    @cached_property
    def _spelled(self) -> Tensor:
        return torch.tensor([*self.pieces], dtype=torch.long, device=self.rows.device)

    @cached_property
    def _first_pieces(self) -> Tensor:
        first = [pieces[0] for pieces in self.pieces.values()]
        return torch.tensor(first, dtype=torch.long, device=self.rows.device)

    @cached_property
    def _trie(self) -> _Trie:
        trie: _Trie = {}
        for token, pieces in self.pieces.items():
            if token not in self.unjoined:
                node = trie
                for piece in pieces:
                    node = node.setdefault(piece, {})
                node[None] = token
        return trie

    @cached_property
    def _read_alone(self) -> _Ids:
        """The teacher's token for a token of the student that is no piece of a longer one."""
        found = self.rows.cpu().numpy().copy()
        for piece, node in self._trie.items():
            if None in node:
                found[piece] = node[None]
        return found

    @cached_property
    def _pairs(self) -> _Ids:
        """The first two pieces of all tokens, as one number each, ascending."""
        return np.unique(
            [
                first * len(self.rows) + second
                for first, node in self._trie.items()
                for second in node
                if first is not None and second is not None
            ]
        ).astype(np.int64)

    def _joined(self, ids: _Ids, is_apart: _Flags, labels: _Ids) -> _Rows:
        """The tokens that the teacher reads, each as long as its pieces allow.

        Args:
            ids: Of the student.
            is_apart: Where a slot is not joined to the slot before it.
            labels: What each slot predicts. Where a text ends within the pieces of a token, this
                tells, and the teacher says nothing about these pieces.
        """
        width = ids.shape[1]
        ends = np.ones_like(is_apart)
        ends[:, :-1] = is_apart[:, 1:]
        following = labels.copy()
        following[:, :-1] = np.where(ends[:, :-1], labels[:, :-1], ids[:, 1:])
        tokens, begins = self._read_alone[ids], np.ones_like(is_apart)
        last = np.broadcast_to(np.arange(width), ids.shape).copy()
        is_told = np.ones_like(is_apart)
        may_begin = np.isin(ids * len(self.rows) + following, self._pairs) & (following >= 0)
        row_before, free = -1, 0
        for row, first in np.argwhere(may_begin).tolist():
            if row == row_before and first < free:
                continue
            row_before = row
            token, end, is_whole = self._longest(ids[row], ends[row], labels[row], first)
            free = end + 1
            is_told[row, first : end + (not is_whole)] = False
            if is_whole:
                tokens[row, first], last[row, first] = token, end
                begins[row, first + 1 : end + 1] = False
        return _Rows(tokens, last, begins, is_told)

    def _longest(self, ids: _Ids, ends: _Flags, labels: _Ids, first: int) -> tuple[int, int, bool]:
        """The longest token whose pieces begin at a slot, and the slot of its last piece.

        Or, if the text ends before the pieces of a token do, its last slot and False.
        """
        node, slot = self._trie[int(ids[first])], first
        token, last = int(self._read_alone[ids[first]]), first
        while not ends[slot] and int(ids[slot + 1]) in node:
            slot += 1
            node = node[int(ids[slot])]
            if None in node:
                token, last = node[None], slot
        if ends[slot] and int(labels[slot]) in node:
            return token, slot, False
        return token, last, True


def _positions(before: _Ids, restarts: _Flags, rows: _Rows) -> _Ids:
    """Positions that count the tokens that are read. Empty slots count from 0, as a text does."""
    gone = np.cumsum(~rows.begins, axis=1)
    gone_before = np.maximum.accumulate(np.where(restarts, gone, 0), axis=1)
    found = rows.moved(before - (gone - gone_before), 0)
    count = rows.begins.sum(1, keepdims=True)
    return np.where(np.arange(before.shape[1]) < count, found, np.arange(before.shape[1]) - count)
