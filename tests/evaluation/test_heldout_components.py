"""Losses by denoiser: the same text for each, the model's own loss, whatever the batches."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.architectures.openba import OPENBA
from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED
from regrow.evaluation.heldout_components import (
    HeldoutComponents,
    evenly_spaced_rows,
    heldout_denoisers,
)
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.rows.denoisers import UL2, Denoiser
from tests.tiny import sentences, write_seq2seq

torch.set_num_threads(1)
TEXTS = [*sentences(12), "A", "A longer text. " * 20]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    directory = write_seq2seq(tmp_path_factory.mktemp("components") / "m", OPENBA)
    return load_model(directory), load_tokenizer(directory)


def measured(opened: tuple[Any, Any], tokens: int = 10_000, **changes: Any) -> HeldoutComponents:
    model, tokenizer = opened
    heldout = heldout_denoisers(TEXTS, tokenizer, model.config, 12, tokens)
    return HeldoutComponents(heldout.loss, heldout.samples, heldout.rows, **changes)


def test_each_denoiser_has_all_of_the_same_text(opened: tuple[Any, Any]) -> None:
    heldout = measured(opened)
    assert list(heldout.samples) == list(UL2)
    texts = set()
    for name, samples in heldout.samples.items():
        rows = heldout.rows[name]
        batch = samples.batch(rows, rows)
        # Sentinels, prefixes, eos and pad apart, source and target are the text.
        ids = np.concatenate([batch["input_ids"], np.maximum(batch["labels"], 0)], axis=1)
        texts.add(tuple(tuple(sorted(row[(row > 2) & (row < 320)])) for row in ids))
    assert len(texts) == 1


def test_it_is_the_models_own_loss(opened: tuple[Any, Any]) -> None:
    model, _ = opened
    heldout = measured(opened, precision="fp32")
    found = heldout.losses(model.train())
    assert model.training
    model.eval()
    for name, samples in heldout.samples.items():
        nats, tokens = 0.0, 0
        for row in heldout.rows[name]:
            one = np.array([row])
            arrays = samples.batch(one, one)
            batch = {key: torch.from_numpy(array) for key, array in arrays.items()}
            predicted = int((batch["labels"] != NOT_PREDICTED).sum())
            with torch.no_grad():
                nats += model(**batch).loss.item() * predicted
            tokens += predicted
        assert found[name] == pytest.approx(nats / tokens, rel=1e-5)
    assert len({round(loss, 3) for loss in found.values()}) > 3


def test_batches_do_not_matter_and_it_repeats(opened: tuple[Any, Any]) -> None:
    model, _ = opened
    together = measured(opened).losses(model)
    assert measured(opened).losses(model) == together
    alone = measured(opened, batch_tokens=1).losses(model)
    assert alone == pytest.approx(together, rel=1e-4)


def test_its_identity_is_that_of_what_is_measured(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    identity = measured(opened).identity
    assert measured(opened).identity == identity
    assert measured(opened, tokens=50).identity != identity
    fewer = {name: UL2[name] for name in ("R1", "S")}
    other = heldout_denoisers(TEXTS, tokenizer, model.config, 12, 10_000, fewer)
    assert other.identity != identity


@given(st.integers(1, 400))
def test_rows_are_spread_over_the_text(opened: tuple[Any, Any], tokens: int) -> None:
    samples = measured(opened).samples["R1"]
    rows = evenly_spaced_rows(samples, tokens)
    assert rows[0] == 0
    assert len(set(rows.tolist())) == len(rows)
    steps = np.diff(np.append(rows, len(samples)))
    assert steps.max() - steps.min() <= 1
    mean = samples.lengths(np.arange(len(samples))).mean()
    assert abs(len(rows) * mean - min(tokens, len(samples) * mean)) <= max(mean, tokens) / 2 + mean


def test_too_few_sentinels_are_said(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    with pytest.raises(UserError, match="the tokenizer has 8 sentinels"):
        heldout_denoisers(TEXTS, tokenizer, model.config, 100, 1_000, {"X1": Denoiser(3, 0.5)})
    with pytest.raises(UserError, match="no token"):
        heldout_denoisers([""], tokenizer, model.config, 12, 1_000)
