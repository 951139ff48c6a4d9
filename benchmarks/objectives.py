"""Training speed of an encoder-decoder in text tokens a second: O-UL2, UL2 and padded UL2.

    python benchmarks/objectives.py --model DIR [--text FILE] [--quick] [--json]

Forward and backward passes of one model. The contenders take turns; values are medians. UL2 cuts
documents into windows of at most 568 tokens, 16 in a micro-batch, with several examples in a row
(shared rows) or one. O-UL2 cuts the concatenated documents into texts that are as long as the
sentinels allow (1,898 and 1,700 tokens for 100 sentinels), 4 in a micro-batch. `padded` pads the
windows to the lengths of the code released with OpenBA-V2, 570 and 381 (or more if a sample is
longer), and torch computes attention with masks. `bucketed` pads to the longest sample of a
micro-batch.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Goal, Result, parser, say, show

from regrow.common.precision import autocast
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch, Samples, data_order
from regrow.corpus.text import read_documents
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.registry import TrainingData, loss_and_rows
from regrow.training.efficiency.allocator import keep_freed_memory
from regrow.training.efficiency.attention import using_document_attention
from regrow.training.efficiency.micro_batches import split_into_micro_batches

LONGEST, TEXT = 568, 1_898
SOURCE, TARGET = 570, 381
UL2_MICRO_BATCH, O_UL2_MICRO_BATCH = 16, 4
SEED = 0
PROSE = Path(__file__).parents[1] / "recipes/prose.txt"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
        longest: Upper bound on the text tokens of a sample.
        samples: In a micro-batch.
        step: Samples that are split into micro-batches together.
        shared: Whether several examples share a row.
        fixed: Whether samples are padded to `SOURCE` and `TARGET`, with attention masks.
    """

    objective: str
    longest: int
    samples: int
    step: int
    shared: bool = False
    fixed: bool = False


CONTENDERS = {
    "O-UL2": Contender("o-ul2", TEXT, O_UL2_MICRO_BATCH, O_UL2_MICRO_BATCH),
    "UL2, shared rows": Contender("ul2", LONGEST, UL2_MICRO_BATCH, UL2_MICRO_BATCH, shared=True),
    "UL2, bucketed": Contender("ul2", LONGEST, UL2_MICRO_BATCH, 8 * UL2_MICRO_BATCH),
    "UL2, padded": Contender("ul2", LONGEST, UL2_MICRO_BATCH, UL2_MICRO_BATCH, fixed=True),
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--text", type=Path, default=PROSE)
    arguments = options.parse_args()
    turns, seconds = (2, 5.0) if arguments.quick else (5, 20.0)
    tokenizer = load_tokenizer(arguments.model)
    model = load_model(arguments.model).train()
    documents = [*read_documents(arguments.text)]
    streams = {
        name: (each, *loss_and_batches(each, documents, tokenizer, model.config))
        for name, each in CONTENDERS.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with keep_freed_memory():
        for turn in range(turns):
            for name, (contender, objective, batches) in streams.items():
                rate = measure(model, contender, objective, batches, seconds)
                say(f"turn {turn + 1} of {turns}: {name}, {rate:,.0f} tokens/s")
                rates[name].append(rate)
    found = {name: statistics.median(each) for name, each in rates.items()}
    peer = "UL2, padded"
    results = [
        Result(name, rate, "text tokens/s", peer, found[peer],
               Goal("ratio", ">=", 1.5) if name == "O-UL2" else None)
        for name, rate in found.items() if name != peer
    ]  # fmt: skip
    show(results, as_json=arguments.json)


def loss_and_batches(
    contender: Contender, documents: list[str], tokenizer: Any, config: Any
) -> tuple[Any, Iterator[tuple[Batch, int]]]:
    data = TrainingData(
        documents, tokenizer, config, contender.longest, SEED, shared_rows=contender.shared
    )
    loss, samples = loss_and_rows(contender.objective, data)
    return loss, batches_of(samples, contender)


def batches_of(samples: Samples, contender: Contender) -> Iterator[tuple[Batch, int]]:
    """Endless batches, each with its number of text tokens."""
    order, step = data_order(samples, SEED), contender.step
    for first in range(0, 1 << 60, step):
        rows, numbers = order.rows(first, first + step), np.arange(first, first + step)
        # With shared rows a micro-batch has fewer rows for the same number of examples.
        rows_at_once = max(1, contender.samples // getattr(samples, "per_row", 1))
        for part in split_into_micro_batches(samples, rows, numbers, rows_at_once):
            batch = samples.batch(rows[part], numbers[part])
            yield (
                padded(batch) if contender.fixed else batch,
                int(samples.lengths(rows[part]).sum()),
            )


def padded(batch: Batch) -> Batch:
    """The same examples, padded to at least `SOURCE` and `TARGET`."""
    found = {}
    for name, array in batch.items():
        width = SOURCE if name in ("input_ids", "attention_mask") else TARGET
        empty = NOT_PREDICTED if name == "labels" else 0
        lacking = max(0, width - array.shape[1])
        found[name] = np.pad(array, ((0, 0), (0, lacking)), constant_values=empty)
    return found


def measure(
    model: Any,
    contender: Contender,
    objective: Any,
    batches: Iterator[tuple[Batch, int]],
    seconds: float,
) -> float:
    """Text tokens a second, measured for at least `seconds` after a first micro-batch."""
    tokens, began = 0, None
    with using_document_attention(model, not contender.fixed):
        for batch, text in batches:
            learn(model, objective, batch)
            if began is None:
                began = time.perf_counter()
                continue
            tokens += text
            if (taken := time.perf_counter() - began) >= seconds:
                return tokens / taken
    raise AssertionError("the batches ended")


def learn(model: Any, objective: Any, batch: Batch) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    with autocast("auto", CPU):
        loss, _ = objective(model, tensors)
    loss.backward()
    model.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
