"""Sources and targets: together they are the text, nothing lost, nothing doubled."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.objectives.rows.denoisers import Denoiser, DenoisingTokens, noise_and_spans
from regrow.objectives.rows.examples import draw_spans, write_examples
from tests.objectives.rows.test_random_segmentation import chi_square

EOS, PAD, START = 1, 3, 4
SENTINELS = tuple(range(2_000, 1_000, -1))
SPECIAL_TOKENS = DenoisingTokens({}, SENTINELS, EOS, PAD, START)
FIRST_TEXT_ID = 10

denoisers = st.builds(
    Denoiser, st.one_of(st.just(math.inf), st.floats(1, 64)), st.floats(0.01, 0.99)
)
texts = st.lists(st.tuples(denoisers, st.integers(1, 400)), min_size=1, max_size=9)


def written(
    rows: list[tuple[Denoiser, int]], seed: int, samples: NDArray[np.int64], prefixed: bool
) -> tuple[list[list[int]], Batch]:
    """Texts in one line, some of it in none of them, and what becomes of them."""
    generator = np.random.default_rng(seed)
    lengths = np.array([length for _, length in rows])
    starts = np.cumsum(lengths + 5) - lengths
    line = generator.integers(FIRST_TEXT_ID, 900, int(starts[-1] + lengths[-1])).astype(np.int32)
    noise, spans = noise_and_spans(
        lengths,
        np.array([denoiser.mean_span for denoiser, _ in rows]),
        np.array([denoiser.rate for denoiser, _ in rows]),
    )
    drawn = draw_spans(seed, samples, lengths, noise, spans)
    prefixes = np.arange(3_000, 3_000 + len(rows)) if prefixed else None
    cut = [line[a : a + n].tolist() for a, n in zip(starts, lengths, strict=True)]
    return cut, write_examples(line, starts, drawn, prefixes, SPECIAL_TOKENS)


@settings(deadline=None)
@given(texts, st.integers(0, 2**32 - 1), st.booleans())
def test_source_and_target_make_the_text(
    rows: list[tuple[Denoiser, int]], seed: int, prefixed: bool
) -> None:
    whole, batch = written(rows, seed, np.arange(len(rows)), prefixed)
    for number, ((denoiser, length), text) in enumerate(zip(rows, whole, strict=True)):
        noise, spans = denoiser.counts(length)
        mask = batch["attention_mask"][number]
        source = batch["input_ids"][number][: mask.sum()].tolist()
        assert mask[: len(source)].all()
        assert (batch["input_ids"][number][len(source) :] == PAD).all()
        labels = batch["labels"][number]
        target = labels[labels != NOT_PREDICTED].tolist()
        assert labels[: len(target)].tolist() == target
        inputs = batch["decoder_input_ids"][number]
        assert inputs[: len(target)].tolist() == [START, *target[:-1]]
        assert set(inputs[len(target) :].tolist()) <= {PAD}

        if prefixed:
            assert source.pop(0) == 3_000 + number
        assert source.pop() == target.pop() == EOS
        assert len(target) == noise + spans
        assert len(source) == length - noise + spans
        pieces: dict[int, list[int]] = {}
        for token in target:
            if token in SENTINELS:
                assert token not in pieces
                pieces[token] = []
            else:
                pieces[next(reversed(pieces))].append(token)
        assert list(pieces) == list(SENTINELS[:spans])
        assert all(pieces.values())
        assert [t for token in source for t in pieces.get(token, [token])] == text
        assert source[-1] == SENTINELS[spans - 1]
        if length > 1:
            assert source[0] not in SENTINELS


@settings(deadline=None)
@given(texts, st.integers(0, 2**32 - 1), st.data())
def test_an_example_is_the_same_in_any_batch(
    rows: list[tuple[Denoiser, int]], seed: int, data: st.DataObject
) -> None:
    samples = np.array(
        data.draw(
            st.lists(st.integers(0, 2**40), min_size=len(rows), max_size=len(rows), unique=True)
        )
    )
    lengths = np.array([length for _, length in rows])
    line = np.arange(FIRST_TEXT_ID, FIRST_TEXT_ID + int(lengths.max()), dtype=np.int32)

    def batch(of: list[int]) -> Batch:
        noise, spans = np.array([rows[each][0].counts(rows[each][1]) for each in of]).T
        drawn = draw_spans(seed, samples[of], lengths[of], noise, spans)
        return write_examples(line, np.zeros(len(of), dtype=np.int64), drawn, None, SPECIAL_TOKENS)

    together = batch(list(range(len(rows))))
    for number in range(len(rows)):
        alone = batch([number])
        for name, array in alone.items():
            assert together[name][number, : array.shape[1]].tolist() == array[0].tolist()


def test_what_goes_and_what_stays_are_drawn_apart() -> None:
    draws = np.arange(30_000)
    full = np.full(len(draws), 1)
    drawn = draw_spans(0, draws, 7 * full, 4 * full, 2 * full)
    taken, kept = drawn.taken[::2], drawn.kept[::2]
    assert set(taken.tolist()) == {1, 2, 3}
    assert set(kept.tolist()) == {1, 2}
    assert abs(chi_square((taken - 1) * 2 + kept - 1, 6)) < 4
