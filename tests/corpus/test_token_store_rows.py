"""Rows of a store are those that its text is packed into."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.megatron_format import write_index
from regrow.corpus.packing import NOT_PREDICTED, pack
from regrow.corpus.token_store import open_store
from regrow.corpus.token_store_rows import StoreRows, pack_store
from regrow.corpus.token_store_windows import cut_store
from tests.corpus.stores import read, write
from tests.training.small import BOS, EOS, byte_tokenizer

FILES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


def arrays(rows: Any) -> dict[str, list[list[int]]]:
    batch = rows.batch(np.arange(len(rows)), np.arange(len(rows)))
    assert all(values.dtype == np.int64 for values in batch.values())
    return {name: values.tolist() for name, values in batch.items()}


@FILES
@given(
    texts=st.lists(st.text("abc é", max_size=30), max_size=12),
    row_length=st.integers(1, 40),
    bos=st.booleans(),
    chat=st.booleans(),
    sequences=st.booleans(),
)
def test_rows_are_those_of_the_text(
    tmp_path: Path, texts: list[str], row_length: int, bos: bool, chat: bool, sequences: bool
) -> None:
    tokenizer = byte_tokenizer(bos=bos)
    tokenizer.chat_template = "{{ eos_token }}" if chat else None
    ids = [byte_tokenizer()(text)["input_ids"] for text in texts]
    stem = write(tmp_path / "a", [[*document, EOS] for document in ids])
    if sum(map(len, ids)) + len(ids) < row_length:
        for make in (pack, pack_store):
            texts_or_store: Any = texts if make is pack else open_store(stem, end=EOS)
            with pytest.raises(UserError, match=f"less than one row of {row_length}"):
                make(texts_or_store, tokenizer, row_length)
        return
    found = pack_store(open_store(stem, end=EOS), tokenizer, row_length)
    expected = pack(texts, tokenizer, row_length)
    assert len(found) == len(expected)
    numbers = np.arange(len(found))
    assert found.lengths(numbers).tolist() == expected.lengths(numbers).tolist()
    assert arrays(found) == arrays(expected)
    for number in (-1, len(found)):
        with pytest.raises(IndexError):
            found.batch(np.array([number]))


def predictions(rows: Any) -> list[tuple[int, int]]:
    """Each input with the token that is predicted from it."""
    found = rows.batch(np.arange(len(rows)))
    pairs = zip(found["input_ids"].reshape(-1), found["labels"].reshape(-1), strict=True)
    return [(int(a), int(b)) for a, b in pairs if b != NOT_PREDICTED]


@FILES
@given(
    texts=st.lists(st.text("abc é", min_size=1, max_size=9), min_size=1, max_size=12),
    row_length=st.integers(1, 3),
)
def test_start_tokens_in_a_store_are_read_once_and_not_predicted(
    tmp_path: Path, texts: list[str], row_length: int
) -> None:
    """As Megatron's own tool writes them with the tokenizer of a Llama."""
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = None
    ids = [byte_tokenizer()(text)["input_ids"] for text in texts]
    stem = write(tmp_path / "a", [[BOS, *document, EOS] for document in ids])
    store = open_store(stem, tokenizer=tokenizer)
    assert predictions(pack_store(store, tokenizer, row_length)) == predictions(
        pack(texts, tokenizer, 1)
    )
    whole = pack_store(store, tokenizer, len(store.tokens)).batch(np.array([0]))
    expected = pack(texts, tokenizer, len(store.tokens) - len(texts)).batch(np.array([0]))
    is_label = whole["labels"] != NOT_PREDICTED
    for name, values in expected.items():
        assert whole[name][is_label].tolist() == values[0].tolist(), name


@FILES
@given(st.lists(st.lists(st.integers(0, 255), max_size=9), max_size=9), st.integers(1, 12))
def test_without_ends_none_is_learned(
    tmp_path: Path, documents: list[list[int]], row_length: int
) -> None:
    """Documents may be empty here; every token is a label once, after the one before it."""
    store = open_store(write(tmp_path / "a", documents))
    rows = StoreRows(store, row_length, start=BOS, end=EOS)
    found = arrays(rows) if len(rows) else {"labels": [], "input_ids": [], "position_ids": []}
    labels, inputs, positions = (
        [value for row in found[name] for value in row]
        for name in ("labels", "input_ids", "position_ids")
    )
    tokens = [token for document in documents for token in document]
    before = [token for document in documents if document for token in [BOS, *document[:-1]]]
    filling = len(rows) * row_length - len(tokens)
    assert labels == tokens + [NOT_PREDICTED] * filling
    assert inputs == before + [EOS] * filling
    starts = np.cumsum([0, *map(len, documents)])
    begins = {*starts.tolist(), *range(0, len(labels), row_length)}
    assert [place for place, position in enumerate(positions) if position == 0] == sorted(
        place for place in begins if place < len(labels)
    )


def test_an_index_out_of_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ds"
    path.write_bytes(np.arange(8, dtype="<u2").tobytes())
    Path(f"{path}.index").write_bytes(np.array([2, 7, 5, 8], dtype="<u8").tobytes())
    Path(f"{path}.metadata").write_text("gpt2|2\n8\n8 T")
    rows = StoreRows(open_store(path), 8, BOS, EOS)
    with pytest.raises(UserError, match="not a complete token store"):
        rows.batch(np.array([0]))


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "a", [[1, 2]]))
    assert read(store) == [[1, 2]]
    with pytest.raises(UserError, match="no eos_token"):
        pack_store(store, byte_tokenizer(eos=False), 2)


def test_identity_is_that_of_what_is_read(tmp_path: Path) -> None:
    def identity(documents: list[list[int]], **changes: Any) -> str:
        store = open_store(write(tmp_path / "a", documents), end=EOS)
        decisive = {"row_length": 2, "start": BOS, "end": EOS, "predict_end": True}
        return StoreRows(store, **{**decisive, **changes}).identity

    base = [[1, 2, EOS], [3, EOS]]
    assert identity(base) == identity(base)
    others = [
        identity(base, row_length=3), identity(base, start=EOS), identity(base, predict_end=False),
        identity([[1, EOS], [2, 3, EOS]]),
    ]  # fmt: skip
    assert len({identity(base), *others}) == 5


def test_nothing_is_held_that_grows_with_the_store(tmp_path: Path) -> None:
    """Not even for a moment: an index that lies askew in its file is copied by numpy's search."""
    documents = 200_000
    (tmp_path / "lengths").write_bytes(np.full(documents, 5, dtype="<i4").tobytes())
    with (tmp_path / "a.idx").open("wb") as file:
        write_index(file, tmp_path / "lengths", "uint16")
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(2 * 5 * documents)
    store = open_store(tmp_path / "a", end=0)
    windows = cut_store(store, 4)
    numbers = np.arange(0, documents, documents // 8)

    def peak(read: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            read()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    rows = StoreRows(store, 5, BOS, EOS)
    assert len(rows) == len(windows) == documents
    assert peak(lambda: rows.batch(numbers)) < 200_000
    assert peak(lambda: windows.pieces(numbers)) < 200_000
    assert peak(lambda: open_store(tmp_path / "a", end=0)) < 200_000
    assert windows.firsts.nbytes < documents / 4
