"""Training losses by denoiser and by domain."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regrow.architectures.openba import OPENBA
from regrow.corpus.samples import Samples, components_of, data_order
from regrow.corpus.sources import Corpus, Source
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.registry import TrainingData, loss_and_rows
from regrow.training.settings import RecoverySettings
from regrow.training.task import StepReport
from tests.tiny import sentences, write_model, write_seq2seq, write_text
from tests.training.small import train_on

torch.set_num_threads(1)
LENGTH = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("components")
    write_seq2seq(home / "both", OPENBA)
    write_model(home / "decoder", vocab_size=330)
    for number, name in enumerate(("prose", "code", "more")):
        write_text(home / f"{name}.jsonl", sentences(30, seed=number))
    return home


def corpus(home: Path) -> Corpus:
    """Two domains, one of which lies in two files."""
    return Corpus(
        (
            Source(name="prose", path=[home / "prose.jsonl", home / "more.jsonl"], weight=2),
            Source(name="code", path=home / "code.jsonl", weight=1),
        )
    )


CASES = {
    "causal": ("decoder", "causal", False, {"domain"}),
    "prefix-lm": ("decoder", "prefix-lm", False, {"domain"}),
    "denoised in one row": ("decoder", "ul2", False, {"denoiser", "domain"}),
    "spans": ("both", "span-corruption", False, {"domain"}),
    "denoised": ("both", "ul2", False, {"denoiser", "domain"}),
    "denoised in shared rows": ("both", "ul2", True, {"denoiser", "domain"}),
    "documents in fixed rows": ("both", "o-ul2", True, {"denoiser", "domain"}),
    "documents in one fixed row": ("decoder", "o-ul2", False, {"denoiser", "domain"}),
}


def by_hand(
    model: Any, objective: Any, samples: Samples, numbers: NDArray[np.int64], seed: int
) -> dict[str, float]:
    """From each sample alone; of shared rows, from what is in them."""
    rows = data_order(samples, seed).rows(0, len(numbers))
    inner: Any = getattr(samples, "per_row", None) and samples
    if inner:
        rows, numbers = inner._rows(rows).reshape(-1), inner._numbers(numbers).reshape(-1)
        samples, objective = inner.pairs, type(objective)()
    sums: dict[str, list[float]] = {}
    for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
        one, other = np.array([row]), np.array([number])
        arrays = samples.batch(one, other)
        with torch.no_grad():
            loss, each = objective(model, {k: torch.from_numpy(a) for k, a in arrays.items()})
        for kind, components in components_of(samples, one, other).items():
            found = sums.setdefault(
                f"{kind}/{components.names[int(components.indices[0])]}", [0.0, 0]
            )
            found[0] += loss.item()
            found[1] += len(each)
    return {name: loss / tokens for name, (loss, tokens) in sums.items()}


@pytest.mark.parametrize("case", CASES)
def test_they_are_those_of_the_samples_alone(home: Path, tmp_path: Path, case: str) -> None:
    directory, name, shared, kinds = CASES[case]
    # That of the encoder-decoder has sentinels.
    model, tokenizer = load_model(home / directory), load_tokenizer(home / "both")
    length = 3 * LENGTH if name == "o-ul2" else LENGTH
    data = TrainingData(corpus(home), tokenizer, model.config, length, 3, shared_rows=shared)
    objective, samples = loss_and_rows(name, data)
    settings = RecoverySettings(
        tokens=20 * length, row_length=length, batch_tokens=10 * length, micro_batch=3,
        learning_rate=1e-9, precision="fp32", schedule="wsd", warmup=0, decay=0,
    )  # fmt: skip
    reports: list[StepReport] = []
    train_on(model, samples, objective, settings, seed=5, directory=tmp_path, track=reports.append)
    first = reports[0]
    rows = data_order(samples, 5)
    count = next(
        n for n in range(1, 99) if samples.lengths(rows.rows(0, n)).sum() == first.step_tokens
    )
    expected = by_hand(load_model(home / directory), objective, samples, np.arange(count), 5)
    assert {name.partition("/")[0] for name in expected} == kinds
    assert {name for name in expected if name.startswith("domain")} == {
        "domain/prose", "domain/code",
    }  # fmt: skip
    assert first.component_losses == pytest.approx(expected, rel=1e-4)


def test_of_rows_with_fixed_lengths_too(home: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(home / "both"), load_tokenizer(home / "both")
    _, samples = loss_and_rows("o-ul2", TrainingData(corpus(home), tokenizer, model.config, 80, 3))
    rows = np.arange(len(samples))
    components = components_of(samples, rows, rows)
    assert components.keys() == {"denoiser", "domain"}
    assert components["denoiser"].names == ("S", "mixed")
    assert set(np.bincount(components["denoiser"].indices[:10]).tolist()) == {8, 2}
    joined: Any = samples
    for source, places, inside in joined._by_source(rows):
        assert (components["denoiser"].indices[places] == source.is_mixed(inside)).all()


def test_text_of_one_source_has_no_components(home: Path) -> None:
    model, tokenizer = load_model(home / "decoder"), load_tokenizer(home / "decoder")
    paths = [home / "prose.jsonl", home / "more.jsonl"]
    one = Corpus((Source(name="prose", path=paths),))
    _, samples = loss_and_rows("causal", TrainingData(one, tokenizer, model.config, LENGTH, 3))
    rows = np.arange(len(samples))
    assert components_of(samples, rows, rows) == {}
