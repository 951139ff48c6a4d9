"""What a smaller vocabulary costs: held-out bits per character by vocabulary size.

    python benchmarks/vocabulary.py MODEL --corpus FILE --heldout NAME=FILE ... --work DIR

Only the vocabulary is cut, without recovery. The tokens with the largest counts in the corpus are
kept. Figure 8 of the OpenBA-V2 report shows perplexity per token instead, which cannot be compared
between vocabularies. The held-out text is the beginnings of the first documents of each file. A
decoder predicts all of their characters. An encoder-decoder reads three quarters, as in UL2's
`<S>`, and predicts the rest. Sentinels and end tokens are not counted, so the predicted characters
are the same for all vocabularies.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Result, parser, say, show, write_figure

import regrow
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout import heldout_loss
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.span_corruption import denoising_tokens
from regrow.report.charts import Line, curves
from regrow.report.svg import Svg

SHARES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)
CHARACTERS = 600
READ = 0.75
"""The share of a document that an encoder-decoder reads. UL2's S-denoiser takes out the rest."""


@dataclass(frozen=True)
class Cost:
    """The cost of a text in a vocabulary."""

    bits_per_character: float
    tokens_per_character: float


def main() -> None:
    made = parser(__doc__)
    made.add_argument("model", type=Path, metavar="MODEL", help="a model directory")
    made.add_argument(
        "--corpus", type=Path, required=True, metavar="FILE", help="text whose tokens are counted"
    )
    made.add_argument(
        "--heldout", nargs="+", required=True, metavar="NAME=FILE", help="held-out text"
    )
    made.add_argument("--work", type=Path, help="a directory for one model at a time")
    made.add_argument("--documents", type=int, default=60, help="documents of each held-out text")
    made.add_argument("--figure", type=Path, metavar="FILE.svg")
    options = made.parse_args()
    documents = 10 if options.quick else options.documents
    texts: dict[str, list[str]] = {}
    for entry in options.heldout:
        name, _, file = entry.partition("=")
        texts[name] = beginnings(Path(file), documents)
    shares = SHARES[::3] if options.quick else SHARES
    found = costs_by_size(options.model, options.corpus, texts, shares, options.work)
    results = []
    for name, costs in found.items():
        whole = costs[0][1]
        for size, cost in costs:
            results += [
                Result(
                    f"{name}, {size:,} tokens: bits per character", cost.bits_per_character, "",
                    "all tokens", whole.bits_per_character,
                ),
                Result(
                    f"{name}, {size:,} tokens: tokens per character", cost.tokens_per_character, "",
                    "all tokens", whole.tokens_per_character,
                ),
            ]  # fmt: skip
    if options.figure:
        write_figure(chart(found), options.figure)
    show(results, as_json=options.json)


def costs_by_size(
    model: Path,
    corpus: Path,
    texts: Mapping[str, Sequence[str]],
    shares: Sequence[float],
    work: Path | None = None,
) -> dict[str, list[tuple[int, Cost]]]:
    """The cost of each text for vocabularies of these shares of all rows, the largest first.

    `work`: a directory for one model at a time.
    """
    rows = load_model(model).get_input_embeddings().weight.shape[0]
    found: dict[str, list[tuple[int, Cost]]] = {name: [] for name in texts}
    for share in shares:
        size = round(rows * share)
        with tempfile.TemporaryDirectory(dir=work) as place:
            cut = model
            if size < rows:
                cut = Path(place) / "model"
                regrow.prune(model, cut, vocab_size=size, calibration=corpus)
            costs = measured(cut, texts)
        for name, cost in costs.items():
            found[name].append((size, cost))
            say(f"{size:,} tokens, {name}: {cost}")
    return found


def chart(found: Mapping[str, Sequence[tuple[int, Cost]]]) -> Svg | None:
    """Bits per character over vocabulary size, a line for each text."""
    lines = [
        Line(name, sorted((size, cost.bits_per_character) for size, cost in costs))
        for name, costs in found.items()
    ]
    return curves("Bits per character by vocabulary size", lines)


def beginnings(path: Path, documents: int) -> list[str]:
    """The beginnings of the first documents of a file."""
    return [text[:CHARACTERS] for text in islice(read_documents(path), documents)]


def measured(directory: Path, texts: Mapping[str, Sequence[str]]) -> dict[str, Cost]:
    """The cost of each text for a model, in float32."""
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    found = {}
    for name, documents in texts.items():
        if model.config.is_encoder_decoder:
            found[name] = _continued(model, tokenizer, documents)
            continue
        loss = heldout_loss(model, tokenizer, documents)
        characters = sum(map(len, documents))
        bits = loss.loss_per_token * loss.tokens / math.log(2)
        found[name] = Cost(bits / characters, loss.tokens / characters)
    return found


def _continued(model: Any, tokenizer: Any, documents: Sequence[str]) -> Cost:
    """The cost of the last part of each document, predicted from the part before it."""
    special_tokens = denoising_tokens(tokenizer, model.config)
    sentinel = special_tokens.sentinels[0]
    prefix = [special_tokens.prefixes["<S>"]] if "<S>" in special_tokens.prefixes else []
    objective = Seq2Seq()
    objective.check(model)
    model.eval()
    nats = 0.0
    characters = tokens = 0
    for text in documents:
        split = round(len(text) * READ)
        read, predicted = (
            tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (text[:split], text[split:])
        )
        source = [*prefix, *read, sentinel, special_tokens.eos]
        batch = {
            "input_ids": [source],
            "attention_mask": [[1] * len(source)],
            "decoder_input_ids": [[special_tokens.start, sentinel, *predicted]],
            "labels": [[NOT_PREDICTED, *predicted, NOT_PREDICTED]],
        }
        arrays = {name: torch.from_numpy(np.array(ids)) for name, ids in batch.items()}
        with torch.no_grad():
            loss, _ = objective(model, arrays)
        nats += loss.item()
        characters += len(text) - split
        tokens += len(predicted)
    return Cost(nats / math.log(2) / characters, tokens / characters)


if __name__ == "__main__":
    main()
