"""Token stores: the bytes of both formats, views, windows, and what is refused."""

import gc
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.packing import Tokenizer
from regrow.corpus.token_store import (
    TokenStore,
    is_store,
    open_store,
    token_dtype,
    tokenizer_sha256,
    write_index,
)
from regrow.corpus.token_store_windows import cut_store
from regrow.corpus.windows import cut_windows
from tests.training.small import EOS, byte_tokenizer

DOCUMENTS = st.lists(st.lists(st.integers(0, 65_535), max_size=9), max_size=9)
FILES = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)


def _joined(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in document]


def write(stem: Path, documents: list[list[int]], dtype: str = "uint16") -> Path:
    """A store of documents of one sequence each."""
    lengths = stem.with_suffix(".lengths")
    lengths.write_bytes(np.array([len(d) for d in documents], dtype="<i4").tobytes())
    with Path(f"{stem}.idx").open("wb") as file:
        write_index(file, lengths, dtype)
    tokens = np.array(_joined(documents), dtype=dtype)
    Path(f"{stem}.bin").write_bytes(tokens.tobytes())
    return stem


def read(store: TokenStore) -> list[list[int]]:
    return [store[number].tolist() for number in range(len(store))]


def test_the_index_is_written_to_the_byte(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2, 3], [], [4]], "int32")
    assert (tmp_path / "a.idx").read_bytes() == (
        b"MMIDIDX\0\0" + struct.pack("<QB", 1, 4) + struct.pack("<QQ", 3, 4)
        + struct.pack("<3i", 3, 0, 1) + struct.pack("<3q", 0, 12, 12)
        + struct.pack("<4q", 0, 1, 2, 3)
    )  # fmt: skip


@FILES
@given(documents=DOCUMENTS, dtype=st.sampled_from(["uint16", "int32"]))
def test_what_was_written_is_read(tmp_path: Path, documents: list[list[int]], dtype: str) -> None:
    store = open_store(write(tmp_path / "a", documents, dtype))
    assert store.tokens.dtype == dtype
    assert read(store) == documents


def test_an_index_longer_than_what_is_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [[1] * (number % 3) for number in range(20)]
    whole = write(tmp_path / "a", documents)
    monkeypatch.setattr("regrow.corpus.token_store._AT_ONCE", 3)
    parts = write(tmp_path / "b", documents)
    assert (tmp_path / "a.idx").read_bytes() == (tmp_path / "b.idx").read_bytes()
    assert open_store(whole).identity == open_store(parts).identity


def test_documents_are_views_of_the_file(tmp_path: Path) -> None:
    stem = write(tmp_path / "a", [[1, 2], [3]])
    store = open_store(stem)
    view = store[1]
    assert np.shares_memory(view, store.tokens)
    assert not view.flags.writeable
    with (tmp_path / "a.bin").open("r+b") as file:
        file.seek(4)
        file.write(b"\x07\0")
    assert view.tolist() == [7]
    del store
    gc.collect()
    assert view.tolist() == [7]
    for number in (-1, 2):
        with pytest.raises(IndexError):
            open_store(stem)[number]


def test_any_of_its_names_will_do(tmp_path: Path) -> None:
    megatron(tmp_path / "a", [[[1, 2], [3]], [], [[4, 5]]], 8)
    for name in ("a", "a.bin", "a.idx"):
        assert read(open_store(tmp_path / name)) == [[1, 2, 3], [], [4, 5]]
        assert is_store(tmp_path / name)
    assert not is_store(tmp_path / "b")


def megatron(stem: Path, documents: list[list[list[int]]], code: int) -> None:
    """A store as Megatron's `IndexedDatasetBuilder` writes it, documents of sequences."""
    kind, size = {4: ("i", 4), 8: ("H", 2)}[code]
    sequences = [sequence for document in documents for sequence in document]
    tokens = _joined(sequences)
    Path(f"{stem}.bin").write_bytes(struct.pack(f"<{len(tokens)}{kind}", *tokens))
    lengths = [len(sequence) for sequence in sequences]
    pointers = [size * sum(lengths[:number]) for number in range(len(lengths))]
    boundaries = [sum(map(len, documents[:number])) for number in range(len(documents) + 1)]
    Path(f"{stem}.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<Q", 1)
        + struct.pack("<B", code)
        + struct.pack("<QQ", len(lengths), len(boundaries))
        + struct.pack(f"<{len(lengths)}i", *lengths)
        + struct.pack(f"<{len(pointers)}q", *pointers)
        + struct.pack(f"<{len(boundaries)}q", *boundaries)
    )


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
    assert read(store) == [_joined(document) for document in documents]
    starts = np.cumsum([0, *(sum(map(len, document)) for document in documents)])
    assert store.starts_of(np.arange(len(documents) + 1)).tolist() == starts.tolist()
    for first in range(len(store.tokens) + 1):
        for last in range(first, len(store.tokens) + 1):
            expected = [start for start in starts[:-1].tolist() if first <= start < last]
            assert store.starts_between(first, last).tolist() == expected
    assert len(store.identity) == 64


@FILES
@given(documents=DOCUMENTS, size=st.sampled_from([2, 4]), named=st.booleans())
def test_datatrove_is_read(
    tmp_path: Path, documents: list[list[int]], size: int, named: bool
) -> None:
    path = tmp_path / "a_00000.ds"
    ends = np.cumsum([len(d) for d in documents], dtype="<u8")
    tokens = np.array(_joined(documents), dtype=f"<u{size}")
    path.write_bytes(tokens.tobytes())
    Path(f"{path}.index").write_bytes(ends.tobytes())
    name = f"gpt2|{size}" if named or size == 4 else "gpt2"
    Path(f"{path}.metadata").write_text(f"{name}\n{len(tokens)}\n{len(tokens)} T")
    store = open_store(path)
    assert read(store) == documents
    assert store.tokens.dtype == ("uint16" if size == 2 else "int32")


@pytest.mark.parametrize(
    ("changed", "data", "message"),
    [
        ("a.ds", b"\1\0\2\0", "2 tokens, where the index has 3"),
        ("a.ds", b"\1\0\2\0\3", "no whole number"),
        ("a.ds.index", struct.pack("<2Q", 1, 3)[:-1], "no whole number"),
        ("a.ds.metadata", b"gpt2|3\n3\n", "it should say"),
        ("a.ds.metadata", b"gpt2|2\n4\n", "it should say"),
        ("a.ds.metadata", b"", "it should say"),
        ("a.ds.metadata", None, "no such file"),
        ("a.ds.index", None, "cannot be read"),
        ("a.ds", None, "cannot be read"),
    ],
)
def test_a_wrong_datatrove_store_is_refused(
    tmp_path: Path, changed: str, data: bytes | None, message: str
) -> None:
    files = {
        "a.ds": b"\1\0\2\0\3\0", "a.ds.index": struct.pack("<2Q", 1, 3),
        "a.ds.metadata": b"gpt2|2\n3\n3 T",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert read(open_store(tmp_path / "a.ds")) == [[1], [2, 3]]
    if data is None:
        (tmp_path / changed).unlink()
    else:
        (tmp_path / changed).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        open_store(tmp_path / "a.ds")
    assert "\n" not in str(caught.value)


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


def test_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.idx: cannot be read: No such file"):
        open_store(tmp_path / "none")


def test_a_store_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    stem = write(tmp_path / "a", [[1]])
    tokenizer = byte_tokenizer()
    open_store(stem, tokenizer=tokenizer)
    facts = {"tokenizer_sha256": tokenizer_sha256(tokenizer), "end": None}
    (tmp_path / "a.json").write_text(json.dumps(facts))
    open_store(stem, tokenizer=tokenizer)
    for other in (_with_token(tokenizer), _splitting_otherwise(tokenizer)):
        with pytest.raises(UserError, match="made with another tokenizer"):
            open_store(stem, tokenizer=other)
    (tmp_path / "a.json").write_text(json.dumps({**facts, "ids": EOS + 1}))
    open_store(stem, tokenizer=_with_token(tokenizer))  # that this text does not hold
    with pytest.raises(UserError, match="made with another tokenizer"):
        open_store(stem, tokenizer=_splitting_otherwise(tokenizer))


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    from copy import deepcopy

    return deepcopy(tokenizer)


def _with_token(tokenizer: Tokenizer) -> Tokenizer:
    changed = _copy(tokenizer)
    changed.add_tokens(["river"])
    return changed


def _splitting_otherwise(tokenizer: Tokenizer) -> Tokenizer:
    from tokenizers import normalizers

    changed = _copy(tokenizer)
    changed.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert changed.get_vocab() == tokenizer.get_vocab()
    return changed


def test_tokens_take_two_bytes_where_they_fit() -> None:
    class Sized:
        def __init__(self, largest: int) -> None:
            self.largest = largest

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": self.largest}

    assert token_dtype(Sized(65_535)) == "uint16"
    assert token_dtype(Sized(65_536)) == "int32"


# Windows


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    texts=st.lists(st.text("abc é", max_size=40), max_size=12),
    longest=st.integers(1, 20),
    end=st.booleans(),
    stride=st.integers(1, 5),
)
def test_windows_are_those_of_the_text(
    tmp_path: Path, texts: list[str], longest: int, end: bool, stride: int
) -> None:
    ids = [byte_tokenizer()(text)["input_ids"] for text in texts]
    stem = write(tmp_path / "a", [[*document, EOS] if end else document for document in ids])
    store = open_store(stem, end=EOS if end else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regrow.corpus.token_store_windows._STRIDE", stride)
        if not any(ids):
            with pytest.raises(UserError, match="no token"):
                cut_store(store, longest)
            return
        found, expected = cut_store(store, longest), cut_windows(texts, byte_tokenizer(), longest)
        assert len(found) == len(expected)
        numbers = np.arange(len(found))
        assert found.lengths_of(numbers).tolist() == expected.lengths_of(numbers).tolist()
        assert found.text_tokens == expected.text_tokens
        assert found.longest_length == expected.longest_length
        for number in numbers.tolist():
            assert found[number].tolist() == expected[number].tolist()
            assert found[number].dtype == np.int32
        for number in (-1, len(found)):
            with pytest.raises(IndexError):
                found[number]


def test_a_document_without_its_end_is_refused(tmp_path: Path) -> None:
    """Where the writer said that each has one; elsewhere it is an empty one."""
    stem = write(tmp_path / "a", [[1, 2], []])
    windows = cut_store(open_store(stem, end=2), 4)
    assert [windows[number].tolist() for number in range(len(windows))] == [[1]]
    (tmp_path / "a.json").write_text('{"end": 2}')
    with pytest.raises(UserError, match="document 1 is empty, where each should end with token 2"):
        cut_store(open_store(stem), 4)


@pytest.mark.parametrize(
    ("documents", "end"),
    [([[1, EOS], [EOS]], EOS), ([[1, EOS], [2]], None), ([[1, EOS], []], None), ([], None)],
)
def test_what_ends_documents_is_seen(
    tmp_path: Path, documents: list[list[int]], end: int | None
) -> None:
    stem = write(tmp_path / "a", documents)
    assert open_store(stem).end is None
    assert open_store(stem, tokenizer=byte_tokenizer()).end == end
    assert open_store(stem, tokenizer=byte_tokenizer(), end=1).end == 1
    (tmp_path / "a.json").write_text('{"end": null}')
    assert open_store(stem, tokenizer=byte_tokenizer()).end is None


def test_ids_that_a_tokenizer_does_not_have_are_refused(tmp_path: Path) -> None:
    open_store(write(tmp_path / "a", [[1, EOS]]), tokenizer=byte_tokenizer())
    with pytest.raises(UserError, match="made with another tokenizer"):
        open_store(write(tmp_path / "a", [[1, EOS + 1]]), tokenizer=byte_tokenizer())


def test_identity_is_that_of_what_is_read(tmp_path: Path) -> None:
    def identity(documents: list[list[int]], longest: int = 2, end: int | None = None) -> str:
        store = open_store(write(tmp_path / "a", documents), end=end)
        return cut_store(store, longest).identity

    base = [[1, 2, 9], [3, 9]]
    assert identity(base) == identity(base)
    others = [
        identity(base, longest=3), identity(base, end=9), identity([[1, 2], [9, 3, 9]]),
        identity([[1, 2, 9], [4, 9]]),
    ]  # fmt: skip
    assert len({identity(base), *others}) == 5
