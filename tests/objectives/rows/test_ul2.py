"""UL2: each sample is what its own denoiser makes of its window."""

from pathlib import Path

import numpy as np
import pytest

from regrow.architectures.t5 import T5
from regrow.common.errors import UserError
from regrow.corpus.windows import Windows
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.rows.denoiser_mixture import MixtureHistory
from regrow.objectives.rows.denoisers import UL2, DenoisingTokens
from regrow.objectives.rows.span_corruption import CorruptedText
from regrow.objectives.rows.ul2 import MixedDenoisers, mix_denoisers
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
    return MixedDenoisers(windows(), special_tokens, 5, MixtureHistory.constant(weights or [1] * 7))


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
    samples.mix_from(40, [0, 0, 0, 1, 0, 0, 0])
    assert (samples.drawn(numbers)[40:] == 3).all()
    after = samples.batch(rows[:40], numbers[:40])
    for name, array in after.items():
        assert (before[name][:40, : array.shape[1]] == array).all()
    assert samples.identity == identity
    again = MixedDenoisers(windows(), SPECIAL_TOKENS, 5, MixtureHistory(samples.mixture.changes))
    assert (again.drawn(numbers) == samples.drawn(numbers)).all()


def test_identity_is_of_all_that_decides() -> None:
    others = [
        mixed(),
        mixed([2, 1, 1, 1, 1, 1, 1]),
        mixed(special_tokens=DenoisingTokens({}, SENTINELS, 1, 0, 0)),
        MixedDenoisers(windows(), SPECIAL_TOKENS, 6, MixtureHistory.constant([1] * 7)),
        MixedDenoisers(
            windows(), SPECIAL_TOKENS, 5, MixtureHistory.constant([1]), {"X1": UL2["X1"]}
        ),
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
    assert samples.mixture.current == pytest.approx([1 / 7] * 7)
    assert samples.row_length == 50
