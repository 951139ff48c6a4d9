"""Examples for decoders in which a part is given and the rest is learned.

Either a document is split in two, or a source and a target (span corruption, UL2, O-UL2) stand in
one row. The batch says which inputs are given, so that attention can go both ways among them.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch, Order, Parts, Samples, data_order, parts_of, slots_of
from regrow.objectives.segments import random_bits, sample_keys

NOT_GIVEN = -1
"""The block of an input that is learned."""


@dataclass(frozen=True, eq=False)
class SplitRows:
    """A `Samples` of packed documents, of each of which the beginning is given: prefix-LM.

    Where a document, or its piece in a row, is split is drawn by the seed and the number of the
    sample: before any of its predictions, as likely.

    Attributes:
        packed: Rows as `regrow.corpus.packing.PackedText` has them.
    """

    packed: Samples
    seed: int

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def row_length(self) -> int:
        return self.packed.row_length

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.packed.lengths(rows)

    def order(self, seed: int) -> Order:
        return data_order(self.packed, seed)

    def parts(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> dict[str, Parts]:
        """Those of the rows."""
        return parts_of(self.packed, rows, samples)

    @cached_property
    def identity(self) -> str:
        return hashlib.sha256(f"split {self.seed} {self.packed.identity}".encode()).hexdigest()

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `packed`, and ``blocks``, int64, [rows, row_length].

        Inputs that are given have the number of their piece in the row, others `NOT_GIVEN`. Labels
        are those of the last that is given and of all after it.
        """
        batch = self.packed.batch(rows, samples)
        positions = batch["position_ids"]
        begins = positions == 0
        pieces = np.cumsum(begins, axis=1) - 1
        firsts = np.flatnonzero(begins)
        lengths = np.diff(np.append(firsts, begins.size))
        keys = sample_keys(self.seed, "split of a text", samples)
        row = firsts // begins.shape[1]
        bits = random_bits(keys[row], pieces.reshape(-1)[firsts]) >> np.uint64(32)
        given = 1 + (bits.astype(np.int64) * lengths >> 32)
        all_given = np.repeat(given, lengths).reshape(positions.shape)
        return {
            **batch,
            "labels": np.where(positions < all_given - 1, NOT_PREDICTED, batch["labels"]),
            "blocks": np.where(positions < all_given, pieces, NOT_GIVEN),
        }


@dataclass(frozen=True, eq=False)
class PairedRows:
    """A `Samples` in which each source and its target stand in one row.

    A row is the start, the source without its end, and the target. All of it up to the first
    sentinel of the target is given; that sentinel comes a second time, and so says that the source
    has ended.

    Attributes:
        pairs: Sources and targets, as `regrow.objectives.examples.write_examples` has them.
        start: The token that a row begins with.
        pad: What rows are filled up with.
    """

    pairs: Samples
    start: int
    pad: int

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def row_length(self) -> int:
        return self.pairs.row_length

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.pairs.lengths(rows)

    def order(self, seed: int) -> Order:
        return data_order(self.pairs, seed)

    def parts(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> dict[str, Parts]:
        """Those of the pairs."""
        return parts_of(self.pairs, rows, samples)

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of rows, [samples, 1]: of source and target, without the end of the source."""
        both: NDArray[np.int64] = slots_of(self.pairs, rows, samples).sum(axis=1, keepdims=True)
        return both - 1

    @cached_property
    def identity(self) -> str:
        settings = f"in one row {self.start} {self.pad} {self.pairs.identity}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """``input_ids``, ``labels``, ``position_ids`` and ``blocks``; int64, [rows, longest].

        Rows are filled up on the right. ``blocks``: 0 for an input that is given, else `NOT_GIVEN`.
        """
        pairs = self.pairs.batch(rows, samples)
        sources = pairs["attention_mask"].sum(axis=1, keepdims=True) - 1
        targets = (pairs["labels"] != NOT_PREDICTED).sum(axis=1, keepdims=True)
        whole = np.concatenate(
            [np.full_like(sources, self.start), pairs["input_ids"], pairs["labels"]], axis=1
        )
        first_target = 1 + pairs["input_ids"].shape[1]
        # Places in the row, the last of which is a label only.
        places = np.arange(int((sources + targets).max()) + 1)[None]
        skipped = np.where(places > sources, first_target - 1 - sources, 0)
        ids = np.take_along_axis(whole, np.minimum(places + skipped, whole.shape[1] - 1), axis=1)
        is_row = places <= sources + targets
        given = sources + 1
        inputs, labels = ids[:, :-1], ids[:, 1:]
        return {
            "input_ids": np.where(is_row[:, 1:], inputs, self.pad),
            "labels": np.where((places[:, :-1] >= given) & is_row[:, 1:], labels, NOT_PREDICTED),
            "position_ids": np.broadcast_to(places[:, :-1], inputs.shape).copy(),
            "blocks": np.where(places[:, :-1] <= given, 0, NOT_GIVEN),
        }
