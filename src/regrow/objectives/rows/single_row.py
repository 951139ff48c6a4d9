"""Rows for decoders with a prefix, of which only what follows the prefix is predicted.

Either a document is split in two (prefix-LM), or a source is followed by its target (span
corruption, UL2, O-UL2). The batch says which inputs belong to a prefix, so that attention can be
bidirectional among them.
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
    MixedSamples,
    Order,
    Samples,
    components_of,
    data_order,
    mixed_samples,
    slots_of,
)
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.random_segmentation import Ids, random_bits, sample_keys

NOT_IN_PREFIX = -1
"""The value of ``blocks`` for an input that belongs to no prefix."""


@dataclass(frozen=True, eq=False)
class PrefixRows:
    """A `Samples` of packed documents, each split into a prefix and the rest: prefix-LM.

    The seed and the number of the sample decide where a document, or its piece in a row, is split.
    All positions before a predicted token have the same probability.

    Attributes:
        packed: Rows of packed documents (`regrow.corpus.packing.PackedText`).
        seed: Decides where documents are split.
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
        """The components of the packed rows."""
        return components_of(self.packed, rows, samples)

    def mixed(self, kind: str) -> MixedSamples | None:
        """The mixtures of the packed rows."""
        return mixed_samples(self.packed, kind)

    @cached_property
    def identity(self) -> str:
        return identity_of("prefix-lm rows", seed=self.seed, packed=self.packed.identity)

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """The batch of `packed`, and ``blocks``, int64, [rows, row_length].

        ``blocks`` holds for each input of a prefix the number of its document in the row, and
        `NOT_IN_PREFIX` for all other inputs. Predictions begin at the last input of each prefix.
        """
        batch = self.packed.batch(rows, samples)
        positions = batch["position_ids"]
        begins = positions == 0
        pieces = np.cumsum(begins, axis=1) - 1
        firsts = np.flatnonzero(begins)
        lengths = np.diff(np.append(firsts, begins.size))
        # The last inputs of a piece may have no label: where the end of a document is not learned.
        labelled = np.where(batch["labels"] == NOT_PREDICTED, 0, positions + 1).reshape(-1)
        ends = np.maximum(np.maximum.reduceat(labelled, firsts), 1)
        keys = sample_keys(self.seed, "split of a text", samples)
        row = firsts // begins.shape[1]
        bits = random_bits(keys[row], pieces.reshape(-1)[firsts]) >> np.uint64(32)
        prefix_lengths = 1 + (bits.astype(np.int64) * ends >> 32)
        prefix_of_each = np.repeat(prefix_lengths, lengths).reshape(positions.shape)
        return {
            **batch,
            "labels": np.where(positions < prefix_of_each - 1, NOT_PREDICTED, batch["labels"]),
            "blocks": np.where(positions < prefix_of_each, pieces, NOT_IN_PREFIX),
        }


@dataclass(frozen=True, eq=False)
class ConcatenatedPairs:
    """A `Samples` whose rows hold a source followed by its target.

    A row is the start token, the source without its eos, and the target. The prefix of the row ends
    with the first sentinel of the target. This sentinel is already in the source, so its second
    occurrence marks the end of the source.

    Attributes:
        pairs: Samples of one source and one target each, in batches as from
            `regrow.objectives.rows.examples.write_examples`.
        start: The first token of a row.
        pad: The token that rows are padded with.
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
        """The components of the pairs."""
        return components_of(self.pairs, rows, samples)

    def mixed(self, kind: str) -> MixedSamples | None:
        """The mixtures of the pairs."""
        return mixed_samples(self.pairs, kind)

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of each row, [samples, 1]: source and target, without the eos of the source."""
        both: NDArray[np.int64] = slots_of(self.pairs, rows, samples).sum(axis=1, keepdims=True)
        return both - 1

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "pairs in one row", start=self.start, pad=self.pad, pairs=self.pairs.identity
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `concatenate_pairs`, with one example in each row."""
        pairs = self.pairs.batch(rows, samples)
        sources, targets = pairs["attention_mask"], pairs["labels"] != NOT_PREDICTED
        both = {
            "input_ids": pairs["input_ids"],
            "source_texts": np.where(sources, 0, NO_TEXT),
            "labels": pairs["labels"],
            "target_texts": np.where(targets, 0, NO_TEXT),
        }
        return concatenate_pairs(both, self.start, self.pad, None)


def concatenate_pairs(pairs: Batch, start: int, pad: int, width: int | None) -> Batch:
    """Rows in which each source is followed by its target, as in `ConcatenatedPairs`.

    Args:
        pairs: As from `regrow.objectives.rows.examples.write_rows`. Examples stay in their rows.
            ``decoder_input_ids`` are not read.
        start: The first token of each example.
        pad: The token that rows are padded with, on the right.
        width: Of the rows; None for that of the longest.

    Returns:
        ``input_ids``, ``labels``, ``position_ids`` and ``blocks``; int64, [rows, width]. Positions
        restart with each example, and continue through the padding. ``blocks`` holds for each input
        of a prefix the number of its example in the row, and `NOT_IN_PREFIX` for all other inputs.
    """
    source_begins, sources, row_of = _runs(pairs["source_texts"])
    target_begins, targets, _ = _runs(pairs["target_texts"])
    # The eos of a source is left out, and the eos of a target is a label only.
    lengths = sources + targets - 1
    firsts = np.flatnonzero(np.diff(row_of, prepend=-1))
    ends = np.cumsum(lengths)
    if width is None:
        width = int(np.add.reduceat(lengths, firsts).max())
    begins = row_of * width + ends - lengths - (ends - lengths)[firsts][row_of]
    slots = np.diff(begins, append=len(firsts) * width)

    # Three runs for each example: the start, its source, its target with the padding after it.
    runs = np.stack([np.ones_like(sources), sources - 1, slots - sources], axis=1)
    pool = np.concatenate([[start], pairs["input_ids"].reshape(-1), pairs["labels"].reshape(-1)])
    from_source = 1 + source_begins - (begins + 1)
    from_target = 1 + pairs["input_ids"].size + target_begins - (begins + sources)
    shifts = np.stack([-begins, from_source, from_target], axis=1)
    places = np.arange(len(firsts) * width)
    at = places + np.repeat(shifts.reshape(-1), runs.reshape(-1))
    position = places - np.repeat(begins, slots)
    past = position - np.repeat(lengths, slots)
    is_prefix = position <= np.repeat(sources, slots)
    is_learned = (position >= np.repeat(sources, slots)) & (past < 0)
    numbers = np.repeat(np.arange(len(row_of)) - np.searchsorted(row_of, row_of), slots)
    found = {
        "input_ids": np.where(past < 0, pool.take(at, mode="clip"), pad),
        "labels": np.where(is_learned, pool.take(at + 1, mode="clip"), NOT_PREDICTED),
        "position_ids": position,
        "blocks": np.where(is_prefix, numbers, NOT_IN_PREFIX),
    }
    return {name: values.reshape(-1, width) for name, values in found.items()}


def _runs(texts: Ids) -> tuple[Ids, Ids, Ids]:
    """The index of each text's first slot, its length, and its row; [texts] each."""
    width = texts.shape[1]
    edges = np.diff(texts, axis=1, prepend=NO_TEXT - 1) != 0
    begins = np.flatnonzero(edges)
    lengths = np.diff(begins, append=texts.size)
    held = texts.reshape(-1)[begins] != NO_TEXT
    return begins[held], lengths[held], begins[held] // width
