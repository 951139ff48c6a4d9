"""Token stores: views of the files, names, and whose tokenizer they are."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.token_store import is_store, open_store
from regrow.corpus.tokenizer_hash import tokenizer_sha256
from tests.corpus.stores import (
    DOCUMENTS,
    FILES,
    lowercasing,
    megatron,
    read,
    with_token,
    write,
)
from tests.training.small import EOS, byte_tokenizer


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
    monkeypatch.setattr("regrow.corpus.token_store.ENTRIES_AT_ONCE", 3)
    monkeypatch.setattr("regrow.corpus.megatron_format.ENTRIES_AT_ONCE", 3)
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
    for other in (with_token(tokenizer), lowercasing(tokenizer)):
        with pytest.raises(UserError, match="made with another tokenizer"):
            open_store(stem, tokenizer=other)
    (tmp_path / "a.json").write_text(json.dumps({**facts, "ids": EOS + 1}))
    open_store(stem, tokenizer=with_token(tokenizer))  # that this text does not hold
    with pytest.raises(UserError, match="made with another tokenizer"):
        open_store(stem, tokenizer=lowercasing(tokenizer))


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


@pytest.mark.parametrize(
    "facts",
    [{"end": "2"}, {"end": -1}, {"ids": [3]}, {"ids": 1 << 31}, {"sha256": "a"},
     {"tokenizer_sha256": 3}],
)  # fmt: skip
def test_notes_of_other_types_are_named(tmp_path: Path, facts: dict[str, object]) -> None:
    stem = write(tmp_path / "a", [[1, 2], [3]])
    Path(f"{stem}.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"a\.json: not a complete token store: .* is no "):
        open_store(stem, tokenizer=byte_tokenizer())
