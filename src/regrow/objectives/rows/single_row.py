"""Examples for decoders in which a part is given and the rest is learned.

Either a document is split in two, or a source and a target (span corruption, UL2, O-UL2) stand in
one row. The batch says which inputs are given, so that attention can go both ways among them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.common.identity import identity_of
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import (
    Batch,
    Components,
    Order,
    Samples,
    components_of,
    data_order,
    slots_of,
)
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.random_segmentation import Ids, random_bits, sample_keys

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

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """Those of the rows."""
        return components_of(self.packed, rows, samples)

    @cached_property
    def identity(self) -> str:
        return identity_of("prefix-lm rows", seed=self.seed, packed=self.packed.identity)

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
        pairs: Sources and targets, as `regrow.objectives.rows.examples.write_examples` has them.
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

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """Those of the pairs."""
        return components_of(self.pairs, rows, samples)

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of rows, [samples, 1]: of source and target, without the end of the source."""
        both: NDArray[np.int64] = slots_of(self.pairs, rows, samples).sum(axis=1, keepdims=True)
        return both - 1

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "pairs in one row", start=self.start, pad=self.pad, pairs=self.pairs.identity
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `in_one_row` has it, one example in each."""
        pairs = self.pairs.batch(rows, samples)
        sources, targets = pairs["attention_mask"], pairs["labels"] != NOT_PREDICTED
        both = {
            "input_ids": pairs["input_ids"],
            "source_texts": np.where(sources, 0, NO_TEXT),
            "labels": pairs["labels"],
            "target_texts": np.where(targets, 0, NO_TEXT),
        }
        return in_one_row(both, self.start, self.pad, None)


def in_one_row(pairs: Batch, start: int, pad: int, width: int | None) -> Batch:
    """Each source and its target side by side, as `PairedRows` says; in as many rows as they are.

    Args:
        pairs: As `regrow.objectives.rows.examples.write_rows` has them; ``decoder_input_ids`` are
            not read.
        width: Of the rows; None for that of the fullest.

    Returns:
        ``input_ids``, ``labels``, ``position_ids`` and ``blocks``; int64, [rows, width]. Positions
        begin again with each example, and go on where a row is filled up, on the right. ``blocks``:
        the number of the example in its row for an input that is given, else `NOT_GIVEN`.
    """
    source_begins, sources, row_of = _runs(pairs["source_texts"])
    target_begins, targets, _ = _runs(pairs["target_texts"])
    # The end of a source is left out, and the last of a target is a label only.
    lengths = sources + targets - 1
    firsts = np.flatnonzero(np.diff(row_of, prepend=-1))
    ends = np.cumsum(lengths)
    if width is None:
        width = int(np.add.reduceat(lengths, firsts).max())
    begins = row_of * width + ends - lengths - (ends - lengths)[firsts][row_of]
    slots = np.diff(begins, append=len(firsts) * width)

    # Of each example three runs: the start, its source, its target and what fills the row up.
    runs = np.stack([np.ones_like(sources), sources - 1, slots - sources], axis=1)
    pool = np.concatenate([[start], pairs["input_ids"].reshape(-1), pairs["labels"].reshape(-1)])
    from_source = 1 + source_begins - (begins + 1)
    from_target = 1 + pairs["input_ids"].size + target_begins - (begins + sources)
    shifts = np.stack([-begins, from_source, from_target], axis=1)
    places = np.arange(len(firsts) * width)
    at = places + np.repeat(shifts.reshape(-1), runs.reshape(-1))
    position = places - np.repeat(begins, slots)
    past = position - np.repeat(lengths, slots)
    is_given = position <= np.repeat(sources, slots)
    is_learned = (position >= np.repeat(sources, slots)) & (past < 0)
    numbers = np.repeat(np.arange(len(row_of)) - np.searchsorted(row_of, row_of), slots)
    found = {
        "input_ids": np.where(past < 0, pool.take(at, mode="clip"), pad),
        "labels": np.where(is_learned, pool.take(at + 1, mode="clip"), NOT_PREDICTED),
        "position_ids": position,
        "blocks": np.where(is_given, numbers, NOT_GIVEN),
    }
    return {name: values.reshape(-1, width) for name, values in found.items()}


def _runs(texts: Ids) -> tuple[Ids, Ids, Ids]:
    """Where each text begins among all slots, its length, and its row; [texts]."""
    width = texts.shape[1]
    edges = np.diff(texts, axis=1, prepend=NO_TEXT - 1) != 0
    begins = np.flatnonzero(edges)
    lengths = np.diff(begins, append=texts.size)
    held = texts.reshape(-1)[begins] != NO_TEXT
    return begins[held], lengths[held], begins[held] // width
