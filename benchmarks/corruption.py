"""How fast UL2 (seven denoisers) and O-UL2 make training samples, in batches of 64.

The peer makes one sample after another, as the code released with OpenBA-V2 does: T5's random
segmentation with numpy, then a loop over the tokens of the text. It was rewritten from a
description of that code. It is measured twice: without and with the three dense attention masks
that the released code makes for each sample. regrow and the peer use texts of 568 tokens, all seven
denoisers equally often, and padded sources and targets. Both may rely on 100 sentinels being
enough.

Speeds are source tokens per second of CPU time of one thread, the best of several rounds.

    python benchmarks/corruption.py [--quick] [--json]
"""

import os
import time
from collections.abc import Callable
from functools import partial

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from common import Goal, Result, parser, say, show
from numpy.typing import NDArray

from regrow.corpus.document_stream import stream_of_tokens
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.corpus.windows import Windows
from regrow.objectives.rows.denoisers import UL2, Denoiser, DenoisingTokens
from regrow.objectives.rows.optimized_ul2 import OptimizedUL2Rows, fixed_lengths
from regrow.objectives.rows.ul2 import MixedDenoisers, denoiser_shares
from regrow.training.mixing.dynamic_mixture import OPENBA_START

BATCH = 64
TEXT = 568
WINDOWS = 20_000
SOURCE, TARGET = 570, 381
"""The padded lengths of the released code."""
GOAL = Goal("value", ">=", 50.0)
SPECIAL_TOKENS = DenoisingTokens(
    {"<R>": 101, "<S>": 102, "<X>": 103}, tuple(range(99, -1, -1)), eos=1, pad=0, start=0
)
Ids = NDArray[np.int64]


def segmentation(random: np.random.Generator, total: int, segments: int) -> Ids:
    """Random lengths of segments, as T5 draws them: shuffle which positions begin a segment."""
    begins = np.arange(total - 1) < segments - 1
    random.shuffle(begins)
    ids = np.cumsum(np.concatenate([[0], begins]))
    return np.bincount(ids)


def corrupt_one(
    text: NDArray[np.int32], denoiser: Denoiser, random: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Source and target of one text, by a loop over its tokens."""
    noise, spans = denoiser.counts(len(text))
    taken = segmentation(random, noise, spans)
    kept = segmentation(random, len(text) - noise, spans)
    lengths = np.stack([kept, taken], axis=1).reshape(-1)
    starts = np.zeros(len(text), dtype=np.int64)
    starts[np.cumsum(lengths)[:-1]] = 1
    is_noise = np.cumsum(starts) % 2 == 1
    source, target = [SPECIAL_TOKENS.prefixes[denoiser.prefix]], []
    span, before = -1, False
    for token, taken_out in zip(text.tolist(), is_noise.tolist(), strict=True):
        if taken_out and not before:
            span += 1
            source.append(SPECIAL_TOKENS.sentinels[span])
            target.append(SPECIAL_TOKENS.sentinels[span])
        (target if taken_out else source).append(token)
        before = taken_out
    return [*source, SPECIAL_TOKENS.eos], [*target, SPECIAL_TOKENS.eos]


def one_by_one(
    windows: Windows, rows: Ids, samples: Ids, dense: bool
) -> list[tuple[NDArray[np.int64], ...]]:
    """A batch as the released code makes it, each sample padded to `SOURCE` and `TARGET`."""
    denoisers = list(UL2.values())
    made = []
    for row, sample in zip(rows.tolist(), samples.tolist(), strict=True):
        random = np.random.default_rng(sample)
        denoiser = denoisers[random.integers(len(denoisers))]
        source, target = corrupt_one(windows[row], denoiser, random)
        ids = np.full(SOURCE, SPECIAL_TOKENS.pad)
        ids[: len(source)] = source
        inputs, labels = np.full(TARGET, SPECIAL_TOKENS.pad), np.full(TARGET, NOT_PREDICTED)
        inputs[: len(target)] = [SPECIAL_TOKENS.start, *target[:-1]]
        labels[: len(target)] = target
        arrays: tuple[NDArray[np.int64], ...] = (ids, inputs, labels)
        if dense:
            reads, writes = ids != SPECIAL_TOKENS.pad, labels != NOT_PREDICTED
            causal = np.tril(np.ones((TARGET, TARGET), dtype=np.int64))
            arrays += (
                (reads[:, None] * reads[None]).astype(np.int64),
                (writes[:, None] * writes[None]) * causal,
                (writes[:, None] * reads[None]).astype(np.int64),
            )
        made.append(arrays)
    return made


def tokens_per_second(
    batch: Callable[[Ids, Ids], object],
    rows: int,
    tokens: Callable[[Ids], int],
    batches: int,
    rounds: int,
) -> float:
    """Millions of source tokens per second of CPU time."""
    drawn = np.random.default_rng(0).integers(0, rows, (batches, BATCH))
    numbers = np.arange(batches * BATCH).reshape(batches, BATCH)
    count = sum(tokens(each) for each in drawn)
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for each, samples in zip(drawn, numbers, strict=True):
            batch(each, samples)
        best = min(best, time.process_time() - began)
    return count / best / 1e6


def main() -> None:
    args = parser(__doc__).parse_args()
    rounds = 10 if args.quick else 150
    # Freeing one large array first makes the allocator keep the memory of later batches, as it does
    # in a training process. Otherwise each batch would have to map its pages again.
    np.empty(16 << 20, dtype=np.uint8)
    tokens = np.random.default_rng(1).integers(200, 32_000, WINDOWS * TEXT).astype(np.int32)
    windows = Windows(tokens, np.arange(WINDOWS) * TEXT, TEXT)

    def full(rows: Ids) -> int:
        return len(rows) * TEXT

    say("the released code's method")
    batches = 2 if args.quick else 5
    plain = [
        tokens_per_second(
            partial(one_by_one, windows, dense=dense), WINDOWS, full, batches, min(rounds, 5)
        )
        for dense in (False, True)
    ]

    def measured(name: str, shares: list[float], goal: Goal | None = None) -> Result:
        say(name)
        samples = MixedDenoisers(windows, SPECIAL_TOKENS, 0, denoiser_shares(shares))

        def batch(rows: Ids, numbers: Ids) -> Batch:
            return samples.batch(rows, numbers)

        speed = tokens_per_second(batch, WINDOWS, full, 10, rounds)
        return Result(name, speed, "M tokens/s", "sample by sample", plain[0], goal)

    results = [measured("UL2, equal shares", [1.0] * len(UL2), GOAL)]
    first = results[0]
    results.append(Result(first.name, first.value, first.unit, "with dense masks", plain[1]))
    results.append(measured("UL2, first shares of D-UL2", list(OPENBA_START.values()), GOAL))
    results += [
        measured(f"{name} alone", [float(each == name) for each in UL2]) for name in ("R1", "X1")
    ]
    say("O-UL2")
    bounds = np.append(windows.starts, len(tokens))
    line = stream_of_tokens(tokens, bounds, 5, ended=False)
    fixed = OptimizedUL2Rows(line, fixed_lengths(100, 1_898), 1_898, SPECIAL_TOKENS, 0, "row pair")
    speed = tokens_per_second(
        fixed.batch, len(fixed), lambda rows: int(fixed.lengths(rows).sum()), 10, rounds
    )
    results.append(Result("O-UL2", speed, "M tokens/s", "sample by sample", plain[0], GOAL))
    show(results, as_json=args.json)


if __name__ == "__main__":
    main()
