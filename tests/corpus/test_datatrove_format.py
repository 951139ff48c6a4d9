"""datatrove's format: what is read, and what is refused."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.token_store import open_store
from tests.corpus.stores import (
    DOCUMENTS,
    FILES,
    joined,
    read,
)


@FILES
@given(documents=DOCUMENTS, size=st.sampled_from([2, 4]), named=st.booleans())
def test_datatrove_is_read(
    tmp_path: Path, documents: list[list[int]], size: int, named: bool
) -> None:
    path = tmp_path / "a_00000.ds"
    ends = np.cumsum([len(d) for d in documents], dtype="<u8")
    tokens = np.array(joined(documents), dtype=f"<u{size}")
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
