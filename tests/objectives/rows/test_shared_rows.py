"""Examples that share rows are learned from as if each had a row of its own."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures import Blueprint
from regrow.architectures.bart import BART
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.architectures.umt5 import UMT5
from regrow.common.errors import UserError
from regrow.corpus.concatenation import ConcatenatedWindows
from regrow.corpus.mixed_order import BLOCK, source_shares
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch, Samples, data_order, mixed_samples
from regrow.corpus.shares import DENOISER, DOMAIN
from regrow.corpus.windows import Windows
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.losses.distillation import Distilled, Teacher
from regrow.objectives.losses.head import decoder_states
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.losses.shared_row_attention import (
    states_of_shared_rows,
    supports_shared_rows,
)
from regrow.objectives.rows.denoisers import SPAN_CORRUPTION, DenoisingTokens
from regrow.objectives.rows.examples import NO_TEXT
from regrow.objectives.rows.shared_rows import (
    SharedRows,
    assign_rows,
    make_shared_rows,
    place_in_rows,
)
from regrow.objectives.rows.span_corruption import CorruptedText, corrupt_text
from regrow.objectives.rows.ul2 import MixedDenoisers, denoiser_shares, mix_denoisers
from regrow.training.settings import RecoverySettings
from tests.tiny import sentences, write_seq2seq, write_tiny
from tests.training.small import train_on

torch.set_num_threads(1)
TEXTS = [*sentences(7), "A", "A longer text. " * 5, "b b", "Two words."]
SPECIAL_TOKENS = DenoisingTokens({}, tuple(range(90, 99)), eos=2, pad=0, start=1)


def windows_of_lengths(lengths: list[int], longest: int = 40) -> Windows:
    tokens = np.arange(10, 10 + sum(lengths), dtype=np.int32) % 80 + 5
    return Windows(tokens, np.cumsum([0, *lengths[:-1]]), longest)


def tensors(batch: Batch, like: torch.dtype = torch.int64) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array).to(like) for name, array in batch.items()}


def everything(samples: Samples) -> Batch:
    rows = np.arange(len(samples))
    return samples.batch(rows, rows)


@pytest.mark.parametrize(
    ("blueprint", "number", "attention"),
    [
        *product([OPENBA], [0, 1], ["sdpa", "eager", "document_attention"]),
        *product([T5], [0, 1], ["sdpa", "eager"]),
        *product([UMT5], [0], ["sdpa", "eager"]),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_losses_and_gradients_are_those_of_the_examples_alone(
    tmp_path: Path, blueprint: Blueprint, number: int, attention: str
) -> None:
    write_seq2seq(tmp_path / "m", blueprint, number)
    tokenizer = load_tokenizer(tmp_path / "m")
    model = load_model(tmp_path / "m", dtype=torch.float64)
    model.set_attn_implementation(attention)
    pairs = mix_denoisers(TEXTS[6:], tokenizer, model.config, 16, seed=3)
    shared = SharedRows(pairs, per_row=3, seed=5, break_even_width=60)
    together = everything(shared)
    held = [len(set(row) - {NO_TEXT}) for row in together["source_texts"].tolist()]
    assert max(held) > 2
    assert min(together["source_texts"].min(), together["target_texts"].min()) == NO_TEXT

    objective = Seq2Seq(shared_rows=True)
    objective.check(model)
    loss, each = objective(model, tensors(together))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)

    order, count = data_order(pairs, 5), 3 * len(shared)
    assert sum(held) == count
    alone, predicted, expected = 0.0, 0, [torch.zeros_like(p) for p in parameters]
    for sample, row in enumerate(order.rows(0, count).tolist()):
        batch = pairs.batch(np.array([row]), np.array([sample]))
        one, some = Seq2Seq()(model, tensors(batch))
        for total, gradient in zip(expected, torch.autograd.grad(one, parameters), strict=True):
            total += gradient
        alone, predicted = alone + one.item(), predicted + len(some)
    assert len(each) == predicted
    assert loss.item() == pytest.approx(alone, rel=1e-8)
    # Written out, OpenBA's attention has its softmax in float32.
    exact = (blueprint, attention) != (OPENBA, "eager")
    for found, wanted in zip(gradients, expected, strict=True):
        difference = (found - wanted).norm()
        assert difference <= (1e-9 if exact else 1e-5) * (wanted.norm() + 1e-3)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    per_row=st.integers(1, 4),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_every_example_lies_in_a_row_once(
    lengths: list[int], per_row: int, seed: int, data: st.DataObject
) -> None:
    pairs = CorruptedText(windows_of_lengths(lengths), SPAN_CORRUPTION, SPECIAL_TOKENS, seed)
    shared = SharedRows(pairs, per_row, seed, break_even_width=data.draw(st.integers(1, 100)))
    samples = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True))
    rows = np.concatenate([shared.order(0).rows(number, number + 1) for number in samples])
    batch = shared.batch(rows, np.array(samples))

    found = []
    for row in range(len(batch["input_ids"])):
        ours, theirs = (batch[f"{side}_texts"][row] for side in ("source", "target"))
        numbers = [number for number in dict.fromkeys(ours.tolist()) if number != NO_TEXT]
        for of_slots in (ours, theirs):
            full = of_slots[of_slots != NO_TEXT]
            assert (np.diff(full) >= 0).all()
            assert (of_slots[: len(full)] == full).all()
            assert set(full) == set(numbers)
        assert (batch["labels"][row][theirs == NO_TEXT] == NOT_PREDICTED).all()
        found += [
            (number, *(batch[name][row][of == number].tolist() for name, of in (
                ("input_ids", ours), ("decoder_input_ids", theirs), ("labels", theirs)
            )))
            for number in numbers
        ]  # fmt: skip
    wanted: list[tuple[Any, ...]] = []
    order = data_order(pairs, seed)
    for sample in samples:
        for inside in range(sample * per_row, (sample + 1) * per_row):
            one = pairs.batch(order.rows(inside, inside + 1), np.array([inside]))
            names = ("input_ids", "decoder_input_ids", "labels")
            wanted.append((len(wanted), *(one[name][0].tolist() for name in names)))
    # Each under its number among the pairs.
    assert sorted(found) == wanted
    assert shared.lengths(rows).tolist() == [
        pairs.lengths(order.rows(n * per_row, (n + 1) * per_row)).sum() for n in samples
    ]
    slots = shared.slots(rows, np.array(samples))
    assert slots.sum(axis=0).tolist() == [
        (batch[f"{side}_texts"] != NO_TEXT).sum() for side in ("source", "target")
    ]
    assert (slots == [shared.slots(rows[[n]], np.array([samples[n]]))[0] for n in range(len(rows))]
            ).all()  # fmt: skip
    # However the rows are asked for.
    assert (shared.lengths(np.arange(3)) == np.concatenate(
        [shared.lengths(np.array([row])) for row in range(3)]
    )).all()  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(2, 60), st.integers(2, 60)), min_size=1, max_size=30),
    most=st.integers(1, 8),
    break_even_width=st.integers(1, 10_000),
)
def test_examples_are_spread_over_no_more_rows_than_said(
    sizes: list[tuple[int, int]], most: int, break_even_width: int
) -> None:
    sources, targets = (np.array(side) for side in zip(*sizes, strict=True))
    row_of = assign_rows(sources, targets, most, break_even_width)
    count = int(row_of.max()) + 1
    assert row_of.shape == sources.shape
    assert count <= most
    assert set(row_of.tolist()) == set(range(count))
    # The fuller side of the fullest row: no more than an even part and one example.
    for side in (sources, targets):
        share = np.bincount(row_of, side) / side.sum()
        largest = (sources / sources.sum() + targets / targets.sum()).max()
        assert share.max() <= 2 / count + largest


def test_wide_rows_are_made_where_attention_is_cheap() -> None:
    sources, targets = np.array([40, 22, 21, 18, 9]), np.array([5, 11, 8, 9, 4])
    assert (
        assign_rows(sources, targets, 5, break_even_width=10_000_000).max()
        < assign_rows(sources, targets, 5, 1).max()
    )


def test_slots_are_filled(tmp_path: Path) -> None:
    """Of short texts by UL2, where padded batches leave more than half of the slots empty."""
    pairs = MixedDenoisers(
        windows_of_lengths([3 + number * 7 % 30 for number in range(256)]),
        DenoisingTokens({}, tuple(range(80, 105)), eos=2, pad=0, start=1), 0,
        denoiser_shares([1.0] * 7),
    )  # fmt: skip
    shared = make_shared_rows(pairs, pairs.windows.text_tokens, seed=0, hidden=256)
    assert shared.per_row == 2
    padded = pairs.batch(np.arange(32), np.arange(32))
    used = [padded["attention_mask"].mean(), (padded["labels"] != NOT_PREDICTED).mean()]
    batch = shared.batch(np.arange(16), np.arange(16))
    filled = [(batch[f"{side}_texts"] != NO_TEXT).mean() for side in ("source", "target")]
    assert max(used) < 0.6
    assert min(filled) > 0.85


@pytest.mark.parametrize("weights", [[1, 1], [1, 9], [9, 1]])
def test_samples_of_a_mixture_fill_rows_as_they_are_drawn(weights: list[float]) -> None:
    """Of one source there are many short texts, and of the other few long ones."""
    windows = ConcatenatedWindows(
        {"short": windows_of_lengths([2] * 900), "long": windows_of_lengths([40] * 9)},
        source_shares(["short", "long"], weights),
    )
    pairs = CorruptedText(windows, SPAN_CORRUPTION, SPECIAL_TOKENS, 0)
    shared = make_shared_rows(pairs, windows.text_tokens, seed=0, hidden=256)
    samples = np.arange(400)
    mean = shared.lengths(samples).mean()
    assert mean <= 1.1 * shared.row_length
    assert mean > 0.45 * shared.row_length


def test_mixtures_change_at_the_sample_that_is_said() -> None:
    windows = ConcatenatedWindows(
        {"a": windows_of_lengths([4] * 5), "b": windows_of_lengths([9] * 5)},
        source_shares(["a", "b"], [1, 1]),
    )
    pairs = MixedDenoisers(windows, SPECIAL_TOKENS, 0, denoiser_shares([1.0] * 7))
    shared = SharedRows(pairs, per_row=3, seed=0, break_even_width=100)
    denoisers, sources = (mixed_samples(shared, kind) for kind in (DENOISER, DOMAIN))
    assert denoisers is not None
    assert sources is not None
    assert (sources.names, sources.first) == (("a", "b"), (BLOCK // 2, BLOCK // 2))
    denoisers.mix_from(8, [0, 0, 1, 0, 0, 0, 0])
    sources.mix_from(8, [0, 1])
    assert len(set(pairs.drawn(np.arange(24)).tolist())) > 1
    assert set(pairs.drawn(np.arange(24, 60)).tolist()) == {2}
    of_source = windows.sources_of(data_order(pairs, 0).rows(0, 60))
    assert set(of_source[:24]) == {0, 1}
    assert set(of_source[24:]) == {1}
    plain = SharedRows(
        CorruptedText(windows_of_lengths([3, 3]), SPAN_CORRUPTION, SPECIAL_TOKENS, 0), 1, 0, 9
    )
    assert [mixed_samples(plain, kind) for kind in (DENOISER, DOMAIN)] == [None, None]


def test_training_meets_its_budget_and_learns(tmp_path: Path) -> None:
    write_seq2seq(tmp_path / "m", OPENBA)
    model, tokenizer = load_model(tmp_path / "m"), load_tokenizer(tmp_path / "m")
    pairs = corrupt_text([*TEXTS, *"abcdefgh"], tokenizer, model.config, 24, seed=3)
    shared = make_shared_rows(pairs, pairs.windows.text_tokens, seed=1, hidden=32)
    given_settings = RecoverySettings(
        tokens=600, row_length=24, batch_tokens=96, micro_batch=3, learning_rate=0.01
    )
    assert shared.per_row == 2
    result = train_on(
        model, shared, Seq2Seq(shared_rows=True), given_settings, seed=1,
        directory=tmp_path / "training",
    )  # fmt: skip
    losses = [loss for _, loss in result.curve]
    assert 600 <= result.tokens < 600 + 3 * 24 * shared.per_row
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2


def test_a_teacher_reads_shared_rows_too(tmp_path: Path) -> None:
    write_seq2seq(tmp_path / "m", T5)
    write_seq2seq(tmp_path / "teacher", T5, num_layers=3)
    student, teacher = load_model(tmp_path / "m"), load_model(tmp_path / "teacher")
    pairs = corrupt_text(TEXTS, load_tokenizer(tmp_path / "m"), student.config, 16, seed=3)
    shared = SharedRows(pairs, per_row=3, seed=2, break_even_width=100)
    rows = data_order(pairs, 2).rows(0, 3 * len(shared))
    apart = pairs.batch(rows, np.arange(len(rows)))
    whom = Teacher(teacher, None, "it")
    found = [
        Distilled(objective, whom, 0.5, 2.0)(student, tensors(batch))
        for objective, batch in (
            (Seq2Seq(shared_rows=True), everything(shared)), (Seq2Seq(), apart),
        )
    ]  # fmt: skip
    assert len(found[0][1]) == len(found[1][1])
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-5)


def test_a_model_that_takes_no_such_mask_is_refused(tmp_path: Path) -> None:
    """BART's positions are counted along the row."""
    write_seq2seq(tmp_path / "m", BART, max_position_embeddings=40)
    model = load_model(tmp_path / "m")
    Seq2Seq().check(model)
    with pytest.raises(UserError, match=r"cannot keep examples in one row apart"):
        Seq2Seq(shared_rows=True).check(model)
    assert not supports_shared_rows(model)
    write_seq2seq(tmp_path / "t5", T5)
    assert supports_shared_rows(load_model(tmp_path / "t5"))


def test_a_sliding_window_is_counted_within_each_example(tmp_path: Path) -> None:
    """The second example is longer than the window of T5Gemma, in both stacks."""
    model = load_model(write_tiny(T5GEMMA, tmp_path / "m"))
    assert model.config.encoder.sliding_window == model.config.decoder.sliding_window == 4
    sources = [torch.arange(3, 6), torch.arange(10, 24)]
    targets = [torch.arange(30, 35), torch.arange(40, 52)]

    def numbered(examples: list[torch.Tensor]) -> torch.Tensor:
        numbers = [torch.full_like(each, number) for number, each in enumerate(examples)]
        return torch.cat([*numbers, torch.tensor([NO_TEXT])])[None]

    empty = torch.tensor([0])
    batch = {
        "input_ids": torch.cat([*sources, empty])[None],
        "decoder_input_ids": torch.cat([*targets, empty])[None],
        "source_texts": numbered(sources),
        "target_texts": numbered(targets),
    }
    with torch.no_grad():
        together = states_of_shared_rows(model, batch)[0, :-1]
        alone = [
            decoder_states(model, source[None], torch.ones_like(source)[None], target[None])[0]
            for source, target in zip(sources, targets, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_model_with_windows_of_its_own_kind_is_refused() -> None:
    """T5Gemma 2 takes the same masks, but its encoder counts a window in another way."""
    sizes: dict[str, Any] = {
        "vocab_size": 90, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4,
    }  # fmt: skip
    image = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip

    def model(*layers: str) -> Any:
        text = {**sizes, "layer_types": list(layers)}
        config = transformers.CONFIG_MAPPING["t5gemma2"](
            encoder={"text_config": text, "vision_config": image},
            decoder=text,
            image_token_index=80,
            eoi_token_index=81,
        )
        return transformers.AutoModelForSeq2SeqLM.from_config(config)

    assert supports_shared_rows(model("full_attention", "full_attention"))
    with pytest.raises(UserError, match=r"apart \(its sliding window .*; give shared_rows: false"):
        Seq2Seq(shared_rows=True).check(model("sliding_attention", "full_attention"))


def test_what_is_learned_says_how_rows_are_made() -> None:
    pairs = CorruptedText(windows_of_lengths([5, 6]), SPAN_CORRUPTION, SPECIAL_TOKENS, 0)
    identities = {
        SharedRows(pairs, per_row, seed, break_even_width).identity
        for per_row, seed, break_even_width in [(1, 0, 1), (2, 0, 1), (1, 1, 1), (1, 0, 2)]
    }
    assert len(identities | {pairs.identity}) == 5
    assert Seq2Seq().identity != Seq2Seq(shared_rows=True).identity
    assert everything(SharedRows(pairs, 2, 0, 10)).keys() == place_in_rows(
        everything(pairs), np.array([0, 0])
    ).keys() | {"examples"}
