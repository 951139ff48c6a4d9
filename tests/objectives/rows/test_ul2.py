"""UL2: each sample is what its own denoiser makes of its window."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.corpus.windows import Windows
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.rows.denoisers import UL2, DenoisingTokens
from regrow.objectives.rows.span_corruption import CorruptedText
from regrow.objectives.rows.ul2 import (
    MixedDenoisers,
    denoiser_shares,
    draw_denoisers,
    mix_denoisers,
)
from tests.tiny import sentences, write_seq2seq

SENTINELS = tuple(range(1_000, 900, -1))
SPECIAL_TOKENS = DenoisingTokens({"<R>": 1_001, "<S>": 1_002, "<X>": 1_003}, SENTINELS, 1, 0, 0)
LENGTHS = [568, 1, 300, 2, 568, 40]


def windows() -> Windows:
    tokens = np.random.default_rng(0).integers(10, 900, sum(LENGTHS)).astype(np.int32)
    starts = np.cumsum(LENGTHS) - np.array(LENGTHS)
    return Windows(tokens, starts.astype(np.int64), 568)


def mixed(
    weights: list[float] | None = None, special_tokens: DenoisingTokens = SPECIAL_TOKENS
) -> MixedDenoisers:
    return MixedDenoisers(windows(), special_tokens, 5, denoiser_shares(weights or [1] * 7))


def test_a_sample_is_that_of_its_denoiser_alone() -> None:
    samples = mixed()
    numbers = np.arange(600)
    rows = numbers % len(LENGTHS)
    kinds = samples.drawn(numbers)
    assert set(kinds.tolist()) == set(range(7))
    together = samples.batch(rows, numbers)
    for kind, denoiser in enumerate(UL2.values()):
        own = np.flatnonzero(kinds == kind)
        alone = CorruptedText(samples.windows, denoiser, SPECIAL_TOKENS, 5).batch(
            rows[own], numbers[own]
        )
        assert set(alone["input_ids"][:, 0].tolist()) == {SPECIAL_TOKENS.prefixes[denoiser.prefix]}
        for name, array in alone.items():
            assert (together[name][own, : array.shape[1]] == array).all()


def test_the_rest_of_a_text_follows_its_beginning() -> None:
    samples = mixed([0, 0, 1, 0, 0, 0, 0])
    batch = samples.batch(np.array([0, 2]), np.array([3, 4]))
    text = samples.windows[0].tolist()
    assert batch["input_ids"][0].tolist() == [1_002, *text[:426], SENTINELS[0], 1]
    assert batch["labels"][0].tolist() == [SENTINELS[0], *text[426:], 1]


def test_without_all_prefixes_there_is_none() -> None:
    special_tokens = DenoisingTokens({"<R>": 1_001}, SENTINELS, 1, 0, 0)
    batch = mixed(special_tokens=special_tokens).batch(np.zeros(50, dtype=np.int64), np.arange(50))
    assert (batch["input_ids"][:, 0] < 900).all()


def test_a_new_mixture_holds_from_its_sample_on() -> None:
    samples = mixed()
    numbers, rows = np.arange(80), np.zeros(80, dtype=np.int64)
    identity, before = samples.identity, samples.batch(rows, numbers)
    samples.shares.mix_from(40, [0, 0, 0, 1, 0, 0, 0])
    assert (samples.drawn(numbers)[40:] == 3).all()
    after = samples.batch(rows[:40], numbers[:40])
    for name, array in after.items():
        assert (before[name][:40, : array.shape[1]] == array).all()
    assert samples.identity == identity


def test_identity_is_of_all_that_decides() -> None:
    one = {"X1": UL2["X1"]}
    others = [
        mixed(),
        mixed([2, 1, 1, 1, 1, 1, 1]),
        mixed(special_tokens=DenoisingTokens({}, SENTINELS, 1, 0, 0)),
        MixedDenoisers(windows(), SPECIAL_TOKENS, 6, denoiser_shares([1] * 7)),
        MixedDenoisers(windows(), SPECIAL_TOKENS, 5, denoiser_shares([1], one), one),
    ]
    assert len({samples.identity for samples in others}) == len(others)
    assert mixed().identity == mixed().identity


def test_rows_with_more_spans_than_sentinels_are_refused(tmp_path: Path) -> None:
    write_seq2seq(tmp_path / "m", T5)
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    texts = sentences(5)
    with pytest.raises(UserError, match=r"8 sentinels; give rows of at most 50 tokens"):
        mix_denoisers(texts, tokenizer, model.config, 60, seed=0)
    samples = mix_denoisers(texts, tokenizer, model.config, 50, seed=0)
    assert samples.shares.changes[-1][1] == pytest.approx([1 / 7] * 7)
    assert samples.row_length == 50


# Which denoiser is drawn

weights = st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda w: sum(w) > 1e-3)
some_samples = st.lists(st.integers(0, 2**40), min_size=1, max_size=50)
THREE = {name: UL2[name] for name in ("R1", "S", "X1")}


@settings(deadline=None)
@given(weights, st.lists(st.tuples(st.integers(1, 50), weights), max_size=6), st.integers(0, 99))
def test_a_change_changes_no_sample_before_it(
    begins: list[float], changes: list[tuple[int, list[float]]], seed: int
) -> None:
    shares = denoiser_shares(begins, THREE)
    numbers = np.arange(400)
    first = 0
    for step, new in changes:
        first += step
        before = draw_denoisers(shares, seed, numbers)
        shares.mix_from(first, new)
        after = draw_denoisers(shares, seed, numbers)
        assert (before[:first] == after[:first]).all()
        alone = draw_denoisers(denoiser_shares(new, THREE), seed, numbers)
        assert (after[first:] == alone[first:]).all()
    assert sum(shares.changes[-1][1]) == pytest.approx(1)


@settings(deadline=None)
@given(weights, st.integers(0, 2**62), some_samples)
def test_a_draw_is_the_same_in_any_batch_and_never_of_no_share(
    given_weights: list[float], seed: int, numbers: list[int]
) -> None:
    shares = denoiser_shares(given_weights, THREE)
    together = draw_denoisers(shares, seed, np.array(numbers)).tolist()
    alone = [int(draw_denoisers(shares, seed, np.array([number]))[0]) for number in numbers]
    assert together == alone
    assert all(given_weights[kind] > 0 for kind in together)


def test_shares_are_kept() -> None:
    names = ("R1", "S", "X1", "X2")
    shares = denoiser_shares([1, 2, 0, 5], {name: UL2[name] for name in names})
    shares.mix_from(50_000, [1, 0, 1, 0])
    drawn = draw_denoisers(shares, 7, np.arange(100_000))
    for part, wanted in ((drawn[:50_000], [1, 2, 0, 5]), (drawn[50_000:], [4, 0, 4, 0])):
        found = np.bincount(part, minlength=4) / len(part)
        assert np.abs(found - np.array(wanted) / 8).max() < 0.01
        assert found[2 if wanted[2] == 0 else 1] == 0
