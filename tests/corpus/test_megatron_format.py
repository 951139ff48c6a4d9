"""Megatron's format: the bytes of the index, what is read, and what is refused."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.token_store import open_store
from regrow.corpus.token_store_windows import cut_store
from tests.corpus.stores import (
    FILES,
    joined,
    megatron,
    read,
    write,
)


def test_the_index_is_written_to_the_byte(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2, 3], [], [4]], "int32")
    assert (tmp_path / "a.idx").read_bytes() == (
        b"MMIDIDX\0\0" + struct.pack("<QB", 1, 4) + struct.pack("<QQ", 3, 4)
        + struct.pack("<3i", 3, 0, 1) + struct.pack("<3q", 0, 12, 12)
        + struct.pack("<4q", 0, 1, 2, 3)
    )  # fmt: skip


@FILES
@given(
    documents=st.lists(
        st.lists(st.lists(st.integers(0, 65_535), max_size=5), max_size=3), max_size=6
    ),
    code=st.sampled_from([4, 8]),
)
def test_megatron_is_read(tmp_path: Path, documents: list[list[list[int]]], code: int) -> None:
    megatron(tmp_path / "a", documents, code)
    store = open_store(tmp_path / "a")
    assert read(store) == [joined(document) for document in documents]
    starts = np.cumsum([0, *(sum(map(len, document)) for document in documents)])
    assert store.starts_of(np.arange(len(documents) + 1)).tolist() == starts.tolist()
    for first in range(len(store.tokens) + 1):
        for last in range(first, len(store.tokens) + 1):
            expected = [start for start in starts[:-1].tolist() if first <= start < last]
            assert store.starts_between(first, last).tolist() == expected
    assert len(store.identity) == 64


@FILES
@given(cut=st.floats(0, 0.999), which=st.sampled_from(["a.bin", "a.idx"]), longer=st.booleans())
def test_a_file_of_another_length_is_refused(
    tmp_path: Path, cut: float, which: str, longer: bool
) -> None:
    write(tmp_path / "a", [[1, 2], [3], [4, 5, 6]])
    data = (tmp_path / which).read_bytes()
    changed = data + data[:5] if longer else data[: int(len(data) * cut)]
    (tmp_path / which).write_bytes(changed)
    with pytest.raises(UserError, match="not a complete token store") as caught:
        open_store(tmp_path / "a")
    assert str(tmp_path / which) in str(caught.value)
    assert "\n" not in str(caught.value)


@FILES
@given(place=st.integers(34, 34 + 12 * 3 + 8 * 4 - 1), value=st.integers(0, 255))
def test_an_index_that_contradicts_itself_is_refused(
    tmp_path: Path, place: int, value: int
) -> None:
    """Any changed byte of the index is found, at the latest where windows are cut."""
    documents = [[1, 2], [3], [4, 5, 6]]
    write(tmp_path / "a", documents)
    data = bytearray((tmp_path / "a.idx").read_bytes())
    if data[place] == value:
        return
    data[place] = value
    (tmp_path / "a.idx").write_bytes(data)
    # Sequences that belong to another document than they did are still a store.
    inner = 34 + 12 * 3 + 8 <= place < 34 + 12 * 3 + 24 and value < 4 and place % 8 == 6
    if inner:
        return
    with pytest.raises(UserError, match="not a complete token store"):
        cut_store(open_store(tmp_path / "a"), 2)


@pytest.mark.parametrize(
    ("place", "data", "message"),
    [(0, b"X", "not the index of a token store"), (9, b"\2", "version 2"), (17, b"\6", "code 6")],
)
def test_another_header_is_refused(tmp_path: Path, place: int, data: bytes, message: str) -> None:
    write(tmp_path / "a", [[1]])
    with (tmp_path / "a.idx").open("r+b") as file:
        file.seek(place)
        file.write(data)
    with pytest.raises(UserError, match=message):
        open_store(tmp_path / "a")
