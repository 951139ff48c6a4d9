"""The share of slots that hold a token, in training batches of an encoder-decoder.

UL2 and O-UL2 in steps of 1,024 samples. Each step is split into micro-batches of at most eight
samples with similar lengths of source and target. Every batch is made, and its tokens are counted:
attended inputs of the encoder, and labels. The peer pads the same samples to the lengths of the
code released with OpenBA-V2, 570 and 381.

Only the lengths of the documents matter here. There are two corpora: the documentation of Python's
own `help()`, with four bytes counted as a token; and documents as long as those on the web,
log-normal with a median of 400 tokens. Documents are cut into windows of at most 568 tokens.

    python benchmarks/padding.py [--quick] [--json]
"""

from pydoc_data.topics import topics

import numpy as np
from common import Goal, Result, parser, say, show
from numpy.typing import NDArray

from regrow.corpus.document_stream import stream_of_tokens
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import DataOrder, Samples
from regrow.corpus.windows import Windows
from regrow.objectives.rows.denoisers import UL2, DenoisingTokens
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.optimized_ul2 import OptimizedUL2Rows, fixed_lengths
from regrow.objectives.rows.ul2 import MixedDenoisers, denoiser_shares
from regrow.training.efficiency.micro_batches import split_into_micro_batches
from regrow.training.mixing.dynamic_mixture import OPENBA_START

STEP, MICRO_BATCH, LONGEST = 1_024, 8, 568
SOURCE, TARGET = 570, 381
SPECIAL_TOKENS = DenoisingTokens(
    {"<R>": 101, "<S>": 102, "<X>": 103}, tuple(range(99, -1, -1)), eos=1, pad=0, start=0
)


def windows_of(documents: NDArray[np.int64]) -> Windows:
    """Windows of random tokens. `documents`: the number of tokens of each document."""
    pieces = -(-documents // LONGEST)
    numbers = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    inside = numbers * np.repeat(documents, pieces) // np.repeat(pieces, pieces)
    starts = np.repeat(np.cumsum(documents) - documents, pieces) + inside
    tokens = np.random.default_rng(0).integers(200, 32_000, int(documents.sum()))
    return Windows(tokens.astype(np.int32), starts, LONGEST)


def filled(samples: Samples, steps: int) -> tuple[float, float, float]:
    """Percent of slots that hold a token, and the same if padded to `SOURCE` and `TARGET`.

    Third, the number of micro-batches, divided by the fewest possible.
    """
    order = DataOrder(0, len(samples))
    tokens = computed = made = 0
    for step in range(steps):
        numbers = np.arange(step * STEP, (step + 1) * STEP)
        rows = order.rows(step * STEP, (step + 1) * STEP)
        for part in split_into_micro_batches(samples, rows, numbers, MICRO_BATCH):
            batch = samples.batch(rows[part], numbers[part])
            if "source_texts" in batch:
                tokens += int((batch["source_texts"] != NO_TEXT).sum())
            else:
                tokens += int(batch["attention_mask"].sum())
            tokens += int((batch["labels"] != NOT_PREDICTED).sum())
            computed += batch["input_ids"].size + batch["labels"].size
            made += 1
    padded = steps * STEP * (SOURCE + TARGET)
    return 100 * tokens / computed, 100 * tokens / padded, made / (steps * STEP / MICRO_BATCH)


def main() -> None:
    args = parser(__doc__).parse_args()
    steps = 2 if args.quick else 20
    lengths = np.random.default_rng(0).lognormal(np.log(400), 1.0, 20_000).astype(np.int64) + 1
    corpora = {
        "help()": np.array([len(text.encode()) // 4 for text in topics.values()]),
        "web": lengths,
    }
    mixtures = {
        "UL2, equal shares": [1.0] * len(UL2),
        "UL2, first shares of D-UL2": list(OPENBA_START.values()),
    }
    results = []
    for text, documents in corpora.items():
        windows = windows_of(documents)
        for name, shares in mixtures.items():
            say(f"{name}, {text}")
            samples = MixedDenoisers(windows, SPECIAL_TOKENS, 0, denoiser_shares(shares))
            value, padded, ratio = filled(samples, steps)
            goal = Goal("value", ">=", 97.0)
            results += [
                Result(f"{name}, {text}", value, "% full", "570 + 381", padded, goal),
                Result(f"{name}, {text}: micro-batches", ratio, "of the fewest"),
            ]
        say(f"O-UL2, {text}")
        bounds = np.append(0, np.cumsum(documents))
        line = stream_of_tokens(windows.tokens, bounds, 5, ended=False)
        fixed = OptimizedUL2Rows(
            line, fixed_lengths(100, 1_898), 1_898, SPECIAL_TOKENS, 0, "row pair"
        )
        value, _, _ = filled(fixed, steps)
        results.append(Result(f"O-UL2, {text}", value, "% full", goal=Goal("value", ">=", 99.5)))
    show(results, as_json=args.json)


if __name__ == "__main__":
    main()
