"""Rows of prompts and answers: each as if it were alone, and only answers are predicted."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.architectures.openba import OPENBA
from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED
from regrow.models.loading import load_model
from regrow.objectives.answers import answer_loss_and_rows
from regrow.objectives.losses.prefix_lm import PrefixLM
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.answered_texts import answered_texts, one_in_a_row, pack_answers
from regrow.objectives.rows.prompt_answers import PromptAnswers, prompt_answers
from tests.tiny import write_tiny
from tests.training.small import small_model

PAIRS = [
    ([10, 11, 12], [20, 2]),
    ([13], [21, 22, 23, 2]),
    ([14, 15], [2]),
    ([16, 17, 18, 19], [24, 25, 2]),
]


def _pairs(row_length: int = 12, pairs: Any = PAIRS) -> PromptAnswers:
    return prompt_answers(pairs, row_length, start=1, pad=0)[0]


def test_pairs_as_sources_and_targets() -> None:
    rows = np.array([1, 0])
    batch = _pairs().batch(rows, rows)
    assert batch["input_ids"].tolist() == [[13, 0, 0], [10, 11, 12]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["decoder_input_ids"].tolist() == [[1, 21, 22, 23], [1, 20, 0, 0]]
    none = NOT_PREDICTED
    assert batch["labels"].tolist() == [[21, 22, 23, 2], [20, 2, none, none]]
    assert _pairs().lengths(rows).tolist() == [5, 5]
    assert _pairs().slots(rows, rows).tolist() == [[1, 4], [3, 2]]


def test_a_packed_row() -> None:
    packed = pack_answers(_pairs().as_texts(), seed=0)
    every = np.arange(len(packed))
    assert sorted(packed.members.tolist()) == [0, 1, 2, 3]
    assert packed.lengths(every).sum() == _pairs().tokens
    assert packed.lengths(every).max() <= 12
    row = int(np.flatnonzero(packed.counts > 1)[0])
    batch = packed.batch(np.array([row]), np.array([0]))
    first = int(packed.counts[:row].sum())
    expected: dict[str, list[int]] = {name: [] for name in batch}
    for number, pair in enumerate(packed.members[first : first + packed.counts[row]].tolist()):
        prompt, answer = PAIRS[pair]
        expected["input_ids"] += [*prompt, *answer[:-1]]
        expected["labels"] += [NOT_PREDICTED] * (len(prompt) - 1) + answer
        expected["position_ids"] += range(len(prompt) + len(answer) - 1)
        expected["blocks"] += [number] * len(prompt) + [-1] * (len(answer) - 1)
    assert {name: values[0].tolist() for name, values in batch.items()} == expected
    assert packed.slots(np.array([row]), np.array([0])).tolist() == [[len(expected["labels"])]]


def _losses(model: Any, loss: Any, samples: Any) -> list[float]:
    """The loss of each answer token, sorted; all rows in one batch."""
    rows = np.arange(len(samples))
    batch = {name: torch.from_numpy(v) for name, v in samples.batch(rows, rows).items()}
    with torch.no_grad():
        return sorted(loss(model, batch)[1].tolist())


def _alone(model: Any, loss: Any, pack: Any) -> list[float]:
    return sorted(
        each for pair in PAIRS for each in _losses(model, loss, pack(_pairs(pairs=[pair])))
    )


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_no_pair_of_a_packed_row_sees_another(family: str) -> None:
    model, loss = small_model(family), PrefixLM("causal")
    packed = pack_answers(_pairs(row_length=20).as_texts(), seed=1)
    assert len(packed) < len(PAIRS)
    alone = _alone(model, loss, lambda pairs: pack_answers(pairs.as_texts(), 0))
    assert _losses(model, loss, packed) == pytest.approx(alone, abs=1e-4)


def test_a_model_that_does_not_keep_texts_apart_reads_one_in_a_row() -> None:
    texts, config = _pairs(row_length=20).as_texts(), small_model("llama").config
    _, alone = answer_loss_and_rows(texts, config, 0, shared_rows=False)
    _, packed = answer_loss_and_rows(texts, config, 0, shared_rows=True)
    assert len(packed) < len(alone) == len(PAIRS)


def test_no_pair_of_a_shared_row_sees_another(tmp_path: Any) -> None:
    model = load_model(write_tiny(OPENBA, tmp_path / "model", vocab_size=40))
    loss, rows = answer_loss_and_rows(_pairs(row_length=20), model.config, 0, shared_rows=True)
    assert len(rows) < len(PAIRS)
    alone = _alone(model, Seq2Seq(), lambda pairs: pairs)
    assert _losses(model, loss, rows) == pytest.approx(alone, abs=1e-4)


def test_packing_depends_on_the_seed_alone() -> None:
    pairs = _pairs(pairs=[([n], [n, 2]) for n in range(100)])
    first, again, other = (pack_answers(pairs.as_texts(), seed) for seed in (0, 0, 1))
    assert first.identity == again.identity != other.identity
    assert _pairs().identity != _pairs(row_length=13).identity


def test_pairs_that_are_too_long_are_left_out_and_counted() -> None:
    rows, longer = prompt_answers(PAIRS, 5, start=1, pad=0)
    assert (len(rows), longer) == (3, 1)
    with pytest.raises(UserError, match=r"none of 4 prompts .* fits into row_length \(2\)"):
        prompt_answers(PAIRS, 2, start=1, pad=0)
    with pytest.raises(UserError, match="no prompt with an answer"):
        prompt_answers([], 2, start=1, pad=0)


TURNS = [
    [([10, 11], [20, 2]), ([12], [21, 2])],
    [([13], [22, 23, 2])],
    [([14], [2]), ([15, 16, 17], [24]), ([18], [25, 2])],
]
"""Texts with several answers."""


def test_all_answers_of_a_text_are_labels() -> None:
    texts, longer = answered_texts(TURNS, 8, pad=0)
    assert (len(texts), longer) == (2, 1)
    batch = one_in_a_row(texts).batch(np.array([0]), np.array([0]))
    none = NOT_PREDICTED
    assert batch["input_ids"].tolist() == [[10, 11, 20, 2, 12, 21]]
    assert batch["labels"].tolist() == [[none, 20, 2, none, 21, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]
    assert batch["blocks"].tolist() == [[0, 0, -1, -1, -1, -1]]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_no_conversation_of_a_packed_row_sees_another(family: str) -> None:
    model, loss = small_model(family), PrefixLM("causal")
    texts = answered_texts(TURNS, 20, pad=0)[0]
    packed = pack_answers(texts, seed=0)
    assert len(packed) == 1
    alone = sorted(
        each
        for text in TURNS
        for each in _losses(model, loss, one_in_a_row(answered_texts([text], 20, pad=0)[0]))
    )
    assert _losses(model, loss, packed) == pytest.approx(alone, abs=1e-4)


_IDS = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@given(st.lists(st.lists(st.tuples(_IDS, _IDS), min_size=1, max_size=3), min_size=1, max_size=9))
def test_packing_loses_no_token_and_no_label(
    texts: list[list[tuple[list[int], list[int]]]],
) -> None:
    packed = pack_answers(answered_texts(texts, 30, pad=0)[0], seed=3)
    rows = np.arange(len(packed))
    batch = packed.batch(rows, rows)
    assert packed.lengths(rows).max() <= 30
    labels = batch["labels"][batch["labels"] != NOT_PREDICTED]
    wanted = [token for text in texts for _, answer in text for token in answer]
    assert sorted(labels.tolist()) == sorted(wanted)
    starts = [text[0][0][0] for text in texts]
    begins = batch["input_ids"][(batch["position_ids"] == 0) & (batch["blocks"] >= 0)]
    assert sorted(begins.tolist()) == sorted(starts)
