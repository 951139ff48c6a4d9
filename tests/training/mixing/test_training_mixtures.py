"""Mixtures that move while a training runs: what is drawn, and that a kill changes nothing."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regrow.architectures.openba import OPENBA
from regrow.evaluation.heldout_components import heldout_denoisers
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.denoisers import UL2
from regrow.objectives.rows.ul2 import (
    MixedDenoisers,
    denoiser_shares,
    draw_denoisers,
    mix_denoisers,
)
from regrow.training.mixing.dynamic_mixture import OPENBA_START, RULES, DynamicMixture
from regrow.training.mixing.training_mixtures import MeasuredMixture, TrainingMixtures
from regrow.training.settings import RecoverySettings
from regrow.training.task import StepReport, TrainingResult
from tests.forks import exit_code
from tests.tiny import sentences, write_seq2seq
from tests.training.small import train_on

torch.set_num_threads(1)
SETTINGS = RecoverySettings(
    tokens=400, row_length=12, batch_tokens=48, micro_batch=3, learning_rate=0.01, save_every=0
)
EVERY = 100
Whole = tuple[Any, TrainingResult, MixedDenoisers, TrainingMixtures]
REFERENCES = dict.fromkeys(UL2, 4.0) | {"S": 3.0}


def parts(
    directory: Path, references: dict[str, float] = REFERENCES
) -> tuple[Any, MixedDenoisers, TrainingMixtures]:
    """Model, samples and mixtures, all new."""
    if not directory.exists():
        write_seq2seq(directory, OPENBA)
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    samples = mix_denoisers(sentences(30), tokenizer, model.config, 12, seed=5)
    heldout = heldout_denoisers(sentences(6, seed=1), tokenizer, model.config, 12, 60)
    mixture = DynamicMixture(RULES["stable"], dict.fromkeys(UL2, 1.0), references)
    steered = MeasuredMixture(mixture, heldout, samples.shares)
    return model, samples, TrainingMixtures({"denoiser": steered}, EVERY)


def trained(directory: Path, on_step: Callable[[StepReport], None] | None = None) -> Whole:
    model, samples, mixtures = parts(directory / "m")
    result = train_on(
        model, samples, Seq2Seq(), SETTINGS, seed=1, directory=directory / "training",
        mixtures=mixtures, on_step=on_step,
    )  # fmt: skip
    return model, result, samples, mixtures


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A training that nobody killed."""
    return trained(tmp_path_factory.mktemp("whole"))


def test_the_mixture_moves_and_the_samples_with_it(whole: Whole) -> None:
    _, result, samples, mixtures = whole
    history = mixtures.mixtures["denoiser"].mixture.history
    assert len(history) == SETTINGS.tokens // EVERY
    assert history[-1].shares["S"] > 1.5 / 7 > history[-1].shares["R1"]
    assert [first for first, _ in samples.shares.changes] == [0, *(h.sample for h in history)]
    assert samples.shares.changes[-1][1] == pytest.approx(tuple(history[-1].shares.values()))
    measured = [change.tokens for change in history]
    assert measured == sorted(measured)
    assert measured[-1] == result.tokens
    for place, tokens in enumerate(measured):
        assert 0 <= tokens - EVERY * (place + 1) < 48 + 12
    # What was drawn for samples before a change is as if there had been none.
    first = history[0].sample
    begun = denoiser_shares([1] * 7)
    numbers = np.arange(first)
    assert (samples.drawn(numbers) == draw_denoisers(begun, samples.seed, numbers)).all()


def test_the_change_reaches_the_weights(tmp_path: Path, whole: Whole) -> None:
    model, samples, mixtures = parts(tmp_path / "m", dict.fromkeys(UL2, 100.0))
    train_on(
        model, samples, Seq2Seq(), SETTINGS, seed=1, directory=tmp_path / "training",
        mixtures=mixtures,
    )  # fmt: skip
    others, moved = model.state_dict(), whole[0].state_dict()
    assert {shares for _, shares in samples.shares.changes} == {samples.shares.first}
    assert not all(torch.equal(others[name], moved[name]) for name in moved)


@pytest.mark.parametrize("last_step", [1, 3, 8])
def test_after_a_kill_it_is_the_same_to_the_bit(
    tmp_path: Path, whole: Whole, last_step: int
) -> None:
    def kill(report: StepReport) -> None:
        if report.step == last_step:
            raise KilledError

    with pytest.raises(KilledError):
        trained(tmp_path, kill)
    model, result, samples, mixtures = trained(tmp_path)
    assert result.resumed_at == last_step
    assert result.curve == whole[1].curve
    assert mixtures.state() == whole[3].state()
    assert samples.shares.changes == whole[2].shares.changes
    states = model.state_dict(), whole[0].state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_after_kill_9_too(tmp_path: Path, whole: Whole) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(trained, tmp_path, kill) == -signal.SIGKILL
    model, result, _, mixtures = trained(tmp_path)
    assert result.resumed_at == 5
    assert result.curve == whole[1].curve
    assert mixtures.state() == whole[3].state()
    states = model.state_dict(), whole[0].state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_who_watches_sees_losses_and_shares(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    _, _, _, mixtures = trained(tmp_path, reports.append)
    mixture = mixtures.mixtures["denoiser"].mixture
    measured = [report.mixture_losses for report in reports if report.mixture_losses is not None]
    assert measured == [
        {f"denoiser/{name}": loss for name, loss in change.losses.items()}
        for change in mixture.history
    ]
    # A step that measures was itself drawn by the shares before.
    shares = [mixture.first_shares, *(change.shares for change in mixture.history)]
    seen = 0
    for report in reports:
        expected = {f"denoiser/{name}": share for name, share in shares[seen].items()}
        assert report.shares == expected
        seen += report.mixture_losses is not None
    assert seen == len(mixture.history) > 1


def test_its_state_is_json(tmp_path: Path) -> None:
    _, _, mixtures = parts(tmp_path / "m")
    losses = {f"denoiser/{name}": 3.0 + place / 3 for place, name in enumerate(UL2)}
    mixtures.update(losses, tokens=10, next_sample=4)
    _, samples, other = parts(tmp_path / "m")
    other.load(json.loads(json.dumps(mixtures.state())))
    assert other.state() == mixtures.state()
    assert [first for first, _ in samples.shares.changes] == [0, 4]


def test_its_identity_is_of_all_that_decides(tmp_path: Path) -> None:
    _, _, mixtures = parts(tmp_path / "m")
    before = mixtures.identity
    mixtures.update({f"denoiser/{n}": 5.0 for n in UL2}, tokens=10, next_sample=4)
    assert mixtures.identity == before
    _, samples, again = parts(tmp_path / "m")
    assert again.identity == before
    mixture, heldout = mixtures.mixtures["denoiser"].mixture, mixtures.mixtures["denoiser"].heldout
    others = [
        DynamicMixture(RULES["paper"], mixture.start, mixture.references),
        DynamicMixture(mixture.rule, OPENBA_START, mixture.references),
        DynamicMixture(mixture.rule, mixture.start, dict(mixture.references) | {"S": 2.9}),
    ]
    found = [
        TrainingMixtures(
            {"denoiser": MeasuredMixture(other, heldout, samples.shares)}, EVERY
        ).identity
        for other in others
    ]
    found.append(TrainingMixtures(mixtures.mixtures, EVERY + 1).identity)
    assert len({before, *found}) == 5


def test_what_is_measured_must_be_what_is_mixed(tmp_path: Path) -> None:
    _, samples, mixtures = parts(tmp_path / "m")
    heldout = mixtures.mixtures["denoiser"].heldout
    fewer = DynamicMixture(RULES["stable"], {"R1": 1, "S": 1}, {"R1": 1, "S": 1})
    with pytest.raises(ValueError, match="a mixture of R1, S, measured of R1, R2, S"):
        MeasuredMixture(fewer, heldout, samples.shares)
