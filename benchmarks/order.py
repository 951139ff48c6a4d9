"""The order of cuts, at equal tokens of recovery: in stages or at once, vocabulary first or last.

    python benchmarks/order.py MODEL --text FILE --heldout FILE ... [--tokens N]

Each order ends in the same sizes and trains on the same number of tokens of the same text. A stage
gets the share of tokens that stands beside it. Cuts are refitted where the architecture allows it,
and recoveries have the default objective of the architecture and the rate of embeddings that a plan
proposes. MODEL is SmolLM2-135M or the small OpenBA; `SIZES` has their sizes. Losses are bits per
byte: of an encoder-decoder, of continuations.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import transformers
from common import Result, parser, say, show

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.trained_weights import save_trained
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout import heldout_loss
from regrow.objectives.registry import TrainingData, loss_and_rows
from regrow.pipeline.proposed_training import EMBEDDING_RATE
from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import TrainingTask

LAYERS, WIDTHS, VOCABULARY = "layers", "widths", "vocabulary"
SIZES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "openba": {
        LAYERS: {"layers": {"encoder": 2, "decoder": 8}},
        WIDTHS: {"hidden": 112, "ffn": 256, "heads": 4},
        VOCABULARY: {"vocab_size": 8_512},
    },
    "llama": {
        LAYERS: {"layers": 22},
        WIDTHS: {"ffn": 872},
        VOCABULARY: {"vocab_size": 24_576},
    },
}
Stage = tuple[tuple[str, ...], float]
"""What is cut, and the share of the tokens that its recovery gets."""
AT_ONCE = "all at once"
ORDERS: Mapping[str, Sequence[Stage]] = {
    AT_ONCE: [((LAYERS, WIDTHS, VOCABULARY), 1)],
    "vocabulary, then the rest at once": [((VOCABULARY,), 0), ((LAYERS, WIDTHS), 1)],
    "vocabulary, layers, widths": [((VOCABULARY,), 0), ((LAYERS,), 0.4), ((WIDTHS,), 0.6)],
    "layers, widths, vocabulary": [((LAYERS,), 0.4), ((WIDTHS,), 0.4), ((VOCABULARY,), 0.2)],
    "layers, widths, vocabulary without recovery": [
        ((LAYERS,), 0.4), ((WIDTHS,), 0.6), ((VOCABULARY,), 0)
    ],
}  # fmt: skip


def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[Sequence[str]]) -> float:
    """The mean over the texts."""
    found = []
    for documents in texts:
        bits = heldout_loss(model, tokenizer, documents, precision="auto").bits_per_byte
        assert bits is not None
        found.append(bits)
    return fmean(found)


def recover(source: ModelDirectory, documents: Sequence[str], settings: RecoverySettings) -> Any:
    """The model of a directory after a training."""
    model = source.load()
    data = TrainingData(documents, source.tokenizer, model.config, settings.row_length, 0)
    loss, samples = loss_and_rows(settings.objective, data)
    with tempfile.TemporaryDirectory() as place:
        train(model, TrainingTask(samples, loss, 0), settings, directory=Path(place) / "training")
    return model


def run(
    stages: Sequence[Stage], options: argparse.Namespace, texts: Sequence[Sequence[str]], work: Path
) -> float:
    """The loss at the end of the last stage."""
    directory = options.model
    documents = list(read_documents(options.text))
    loss = float("nan")
    for number, (parts, share) in enumerate(stages):
        sizes = SIZES[ModelDirectory(options.model).config.model_type]
        cut = {key: value for part in parts for key, value in sizes[part].items()}
        out = work / str(number)
        regrow.prune(
            directory, out, calibration=options.text,
            calibration_tokens=options.calibration_tokens, **cut,
        )  # fmt: skip
        directory = out
        source = ModelDirectory(out)
        model = source.load()
        after_cut = loss = bits_per_byte(model, source.tokenizer, texts)
        if share:
            settings = RecoverySettings(
                tokens=round(share * options.tokens), micro_batch=options.micro_batch,
                learning_rate=options.learning_rate, embedding_rate=EMBEDDING_RATE,
            )  # fmt: skip
            model = recover(source, documents, settings)
            loss = bits_per_byte(model, source.tokenizer, texts)
            directory = work / f"{number}-recovered"
            state = model.state_dict()
            save_trained(model, state, source.checkpoint, source.layout, directory)
        say(f"  {', '.join(parts)}: {after_cut:.3f}, recovered {loss:.3f}")
    return loss


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, metavar="MODEL")
    arguments.add_argument("--text", type=Path, required=True, help="to calibrate and train on")
    arguments.add_argument("--heldout", type=Path, nargs="+", required=True)
    arguments.add_argument("--documents", type=int, default=40, help="of each held-out text")
    arguments.add_argument("--tokens", type=int, default=90_000, help="of recovery, of all stages")
    arguments.add_argument("--learning-rate", type=float, default=3e-4)
    arguments.add_argument("--micro-batch", type=int, default=4)
    arguments.add_argument("--calibration-tokens", type=int, default=16_384)
    arguments.add_argument("--orders", nargs="+", choices=ORDERS, default=[*ORDERS])
    options = arguments.parse_args()
    if options.quick:
        options.tokens, options.calibration_tokens, options.documents = 8_192, 2_048, 10
    transformers.utils.logging.disable_progress_bar()
    texts = [list(islice(read_documents(path), options.documents)) for path in options.heldout]
    source = ModelDirectory(options.model)
    results = [
        Result("original", bits_per_byte(source.load(), source.tokenizer, texts), "bits/byte")
    ]
    found: dict[str, float] = {}
    for name in options.orders:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="order-") as work:
            found[name] = run(ORDERS[name], options, texts, Path(work))
        say(f"{name}: {found[name]:.3f} ({time.monotonic() - began:.0f} s)")
        results.append(Result(name, found[name], "bits/byte", AT_ONCE, found.get(AT_ONCE)))
    show(results, as_json=options.json)


if __name__ == "__main__":
    main()
