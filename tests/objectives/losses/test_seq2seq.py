"""What an encoder-decoder learns: the loss is the model's own, sample by sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regrow.architectures import Blueprint
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED
from regrow.evaluation.heldout import heldout_loss
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.span_corruption import CorruptedText, corrupt_text, denoising_tokens
from regrow.training.settings import RecoverySettings
from tests.tiny import sentences, write_seq2seq
from tests.training.small import train_on

torch.set_num_threads(1)
CASES = [(OPENBA, 0), (OPENBA, 1), (T5, 0), (T5, 1)]
IDS = [f"{blueprint.model_type}-{number}" for blueprint, number in CASES]


def opened(
    out: Path, blueprint: Blueprint, number: int, row_length: int = 24
) -> tuple[Any, Any, CorruptedText]:
    write_seq2seq(out, blueprint, number)
    model, tokenizer = load_model(out), load_tokenizer(out)
    texts = [*sentences(5), "A", "A longer text. " * 20]
    return model, tokenizer, corrupt_text(texts, tokenizer, model.config, row_length, seed=3)


def tensors(samples: CorruptedText, rows: list[int]) -> dict[str, torch.Tensor]:
    arrays = samples.batch(np.array(rows), np.array(rows))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize(("blueprint", "number"), CASES, ids=IDS)
def test_the_loss_is_the_models_own(tmp_path: Path, blueprint: Blueprint, number: int) -> None:
    model, _, samples = opened(tmp_path / "m", blueprint, number)
    objective = Seq2Seq()
    objective.check(model)
    batch = tensors(samples, list(range(len(samples))))
    loss, each = objective(model, batch)
    assert len(each) == (batch["labels"] != NOT_PREDICTED).sum()
    own = model(**batch).loss * len(each)
    assert loss.item() == pytest.approx(own.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = torch.autograd.grad(own, list(model.parameters()))
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("blueprint", "number"), CASES, ids=IDS)
def test_padding_changes_nothing(tmp_path: Path, blueprint: Blueprint, number: int) -> None:
    model, tokenizer, samples = opened(tmp_path / "m", blueprint, number)
    objective = Seq2Seq()
    with torch.no_grad():
        alone = [objective(model, tensors(samples, [row])) for row in range(len(samples))]
        together, each = objective(model, tensors(samples, list(range(len(samples)))))
    tokens = len(each)
    assert tokens == sum(len(some) for _, some in alone)
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)

    texts = [*sentences(5), "A", "A longer text. " * 20]
    found = [
        heldout_loss(model, tokenizer, texts, row_length=24, batch_tokens=size)
        for size in (1, 10_000)
    ]
    assert found[0].tokens == found[1].tokens == tokens
    assert found[0].loss_per_token == pytest.approx(found[1].loss_per_token, rel=1e-5)
    assert found[0].bits_per_byte == pytest.approx(found[1].bits_per_byte, rel=1e-5)


def test_a_sample_depends_on_its_number_and_the_seed_alone(tmp_path: Path) -> None:
    _, _, samples = opened(tmp_path / "m", T5, 0, row_length=80)

    def source(row: int, number: int, of: CorruptedText = samples) -> list[int]:
        batch = of.batch(np.array([row]), np.array([number]))
        assert batch["decoder_input_ids"][0, 0] == samples.special_tokens.start
        assert (batch["decoder_input_ids"][0, 1:] == batch["labels"][0, :-1]).all()
        ids: list[int] = batch["input_ids"][0].tolist()
        return ids

    last = len(samples) - 1
    together = samples.batch(np.array([0, last]), np.array([7, 9]))["input_ids"]
    longest = len(source(last, 9))
    assert together[1, :longest].tolist() == source(last, 9)
    assert source(last, 9) == source(last, 9) != source(last, 10)
    other = CorruptedText(samples.windows, samples.denoiser, samples.special_tokens, 4)
    assert source(last, 9, other) != source(last, 9)
    assert other.identity != samples.identity


def test_sentinels_are_found_by_name(tmp_path: Path) -> None:
    model, tokenizer, samples = opened(tmp_path / "m", OPENBA, 0)
    assert samples.special_tokens.sentinels == tuple(range(327, 319, -1))
    assert samples.special_tokens.prefixes == {}
    tokenizer.add_special_tokens({"additional_special_tokens": ["<R>", "<X>"]})
    ids = tokenizer.get_vocab()
    special_tokens = denoising_tokens(tokenizer, model.config)
    assert special_tokens.prefixes == {"<R>": ids["<R>"], "<X>": ids["<X>"]}
    prefixed = CorruptedText(samples.windows, samples.denoiser, special_tokens, 3)
    assert (prefixed.batch(np.arange(3), np.arange(3))["input_ids"][:, 0] == ids["<R>"]).all()
    assert prefixed.identity != samples.identity


@pytest.mark.parametrize("lacks", ["sentinels", "eos"])
def test_a_tokenizer_that_cannot_say_it_is_refused(tmp_path: Path, lacks: str) -> None:
    model, tokenizer, _ = opened(tmp_path / "m", T5, 0)
    if lacks == "eos":
        tokenizer.eos_token = None
        with pytest.raises(UserError, match="no eos_token"):
            denoising_tokens(tokenizer, model.config)
        return
    bare = write_seq2seq(tmp_path / "bare", T5)
    for path in bare.glob("tokenizer*"):
        path.write_text(path.read_text(encoding="utf-8").replace("extra_id", "other"))
    with pytest.raises(UserError, match="no sentinel <extra_id_0>"):
        denoising_tokens(load_tokenizer(bare), model.config)


def test_training_learns_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    settings = RecoverySettings(
        tokens=900, row_length=24, batch_tokens=96, micro_batch=3, learning_rate=0.01, save_every=0
    )

    class KilledError(Exception):
        pass

    def kill(report: Any) -> None:
        if report.step == 4:
            raise KilledError

    results = []
    for name, on_step in (("whole", None), ("killed", kill)):
        model, _, samples = opened(tmp_path / name / "m", OPENBA, 0)
        place = tmp_path / name / "training"
        if on_step is not None:
            with pytest.raises(KilledError):
                train_on(
                    model, samples, Seq2Seq(), settings, seed=1, directory=place, on_step=on_step
                )
            model = load_model(tmp_path / name / "m")
        result = train_on(model, samples, Seq2Seq(), settings, seed=1, directory=place)
        results.append((model.state_dict(), result))
    (whole, first), (killed, second) = results
    assert second.resumed_at == 4
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert first.curve == second.curve
    losses = [loss for _, loss in first.curve]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3
    # Text tokens, not places in rows: windows are shorter than a row.
    assert 900 <= first.tokens < 900 + 2 * 24


def test_t5gemma_is_measured_by_its_own_head(tmp_path: Path) -> None:
    """Its head has a soft-cap and a projection of another name."""
    out = tmp_path / "m"
    write_seq2seq(out, T5GEMMA)
    Seq2Seq().check(load_model(out))
