"""Calibration text: drawn by seed, documents apart, every token counted once."""

import string
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.text import read_documents
from regrow.corpus.turns import TextsInTurns
from regrow.scoring import calibration
from regrow.scoring.calibration import (
    ROW_LENGTH,
    Calibration,
    CalibrationText,
    draw_calibration,
)
from tests.training.small import BOS, EOS, byte_tokenizer

LETTERS = string.ascii_letters


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=20),
    tokens=st.integers(1, 100),
    seed=st.integers(0, 2**32),
)
def test_pieces_are_of_one_document_each(lengths: list[int], tokens: int, seed: int) -> None:
    documents = [LETTERS[i] * n for i, n in enumerate(lengths)]
    whole = (sum(lengths) + len(lengths)) // tokens
    if whole == 0:
        with pytest.raises(UserError, match="less than one row"):
            draw_calibration(documents, byte_tokenizer(), tokens=tokens, seed=seed)
        return
    drawn = draw_calibration(documents, byte_tokenizer(), tokens=tokens, seed=seed)
    assert drawn.tokens == tokens
    for piece in drawn.pieces:
        rest = piece[1:] if piece[0] == EOS else piece
        assert len(set(rest.tolist())) <= 1
    sizes = [len(piece) for piece in drawn.pieces]
    assert sizes == sorted(sizes, reverse=True)


def test_bos_of_the_tokenizer_begins_a_document() -> None:
    drawn = draw_calibration(["abc", "de"], byte_tokenizer(bos=True), tokens=7)
    assert [piece[0] for piece in drawn.pieces] == [BOS, BOS]
    assert [len(piece) for piece in drawn.pieces] == [4, 3]


def test_seed_decides_which_rows() -> None:
    documents = ["".join(LETTERS[(i * j) % 52] for j in range(997)) for i in range(1, 20)]

    def ids(seed: int) -> bytes:
        drawn = draw_calibration(documents, byte_tokenizer(), tokens=2 * ROW_LENGTH, seed=seed)
        assert drawn.tokens == 2 * ROW_LENGTH
        return np.concatenate(drawn.pieces).tobytes()

    assert ids(0) == ids(0)
    assert len({ids(seed) for seed in range(5)}) == 5


def test_a_text_that_is_shorter_than_asked_is_used_whole_and_said() -> None:
    said: list[str] = []
    drawn = draw_calibration(
        ["x" * 1300], byte_tokenizer(), tokens=10 * ROW_LENGTH, notify=said.append
    )
    assert drawn.tokens == 2 * ROW_LENGTH
    assert said == ["calibration: the text fills 1,024 tokens of the 5,120 asked for"]


def test_of_a_long_text_only_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_CHARACTERS_READ", 5000)
    text = "".join(LETTERS[i % 52] for i in range(4000))
    said: list[str] = []

    def documents(rest: str) -> Iterator[str]:
        yield text
        yield rest
        raise AssertionError("read on")

    def drawn(rest: str) -> list[list[int]]:
        found = draw_calibration(
            documents(rest), byte_tokenizer(), tokens=40, seed=3, notify=said.append
        )
        return [piece.tolist() for piece in found.pieces]

    assert drawn(text) == drawn(text[:1000] + "x" * 9000)
    assert said == ["calibration: drawn from the first 5,000 characters of the text"] * 2
    # More tokens need more text.
    with pytest.raises(AssertionError, match="read on"):
        draw_calibration(documents(text), byte_tokenizer(), tokens=600)


def test_a_long_document_of_one_source_leaves_room_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "_CHARACTERS_READ", 400)
    monkeypatch.setattr(calibration, "_CHARACTERS_A_TOKEN", 1)
    texts = TextsInTurns([partial(iter, ["a" * 3000]), partial(iter, ["b" * 9] * 99)], 100)
    drawn = draw_calibration(CalibrationText(texts).read(), byte_tokenizer(), tokens=380)
    a, b = (byte_tokenizer()(letter)["input_ids"][0] for letter in "ab")
    counts = np.bincount(np.concatenate(drawn.pieces))
    # Two turns of each; beside the letters, an end token for each document.
    assert (counts[a], counts[b], counts[EOS]) == (200, 160, 20)


def test_of_short_documents_the_same_rows_are_drawn_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents that end within a turn, or a little after it, are not divided."""
    monkeypatch.setattr(calibration, "_CHARACTERS_READ", 900)
    monkeypatch.setattr(calibration, "_CHARACTERS_A_TOKEN", 1)
    documents = [[LETTERS[i * j % 52] * (i + j) for j in range(1, 40)] for i in (5, 9, 13)]
    texts = TextsInTurns([partial(iter, each) for each in documents], 300)

    def ids(read: Iterator[str]) -> list[list[int]]:
        drawn = draw_calibration(read, byte_tokenizer(), tokens=600, seed=1)
        return [piece.tolist() for piece in drawn.pieces]

    assert ids(CalibrationText(texts).read()) == ids(texts())


def test_too_little_text() -> None:
    with pytest.raises(UserError, match="calibration: the text is 5 tokens, less than one row of"):
        draw_calibration(["four"], byte_tokenizer())
    with pytest.raises(UserError, match="calibration: the text holds no document"):
        draw_calibration([], byte_tokenizer())


def test_files_that_are_no_text(tmp_path: Path) -> None:
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_bytes(b" \n")
    latin.write_bytes("gr\xfc\xdfe".encode("latin-1") * 999)
    with pytest.raises(UserError, match=r"empty\.txt: the file holds no text"):
        draw_calibration(read_documents(empty), byte_tokenizer())
    with pytest.raises(UserError, match=r"latin\.txt: line 1 is not UTF-8"):
        draw_calibration(read_documents(latin), byte_tokenizer())


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 64))
def test_batches_hold_every_token_once(lengths: list[int], batch_tokens: int) -> None:
    counter = iter(range(1, 1000))
    pieces = [np.array([next(counter) for _ in range(n)]) for n in sorted(lengths, reverse=True)]
    found = []
    for ids, mask in Calibration(pieces).batches(batch_tokens):
        assert ids.shape == mask.shape
        assert ids.size <= batch_tokens or len(ids) == 1
        assert (ids[~mask] == 0).all()
        # Filled up on the right only.
        assert (np.diff(mask.astype(int), axis=1) <= 0).all()
        found += ids[mask].tolist()
    assert found == np.concatenate(pieces).tolist()
