"""Records of conversations in each form, in each kind of file; and texts under another key."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.conversations import Turn, as_document, conversation_of, from_document
from regrow.corpus.put_aside import put_aside
from regrow.corpus.reading import CONVERSATIONS, Reading
from regrow.corpus.text import read_documents

TURNS = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "And?")]
RECORD = {"messages": [{"role": r, "content": c, "weight": 1} for r, c in TURNS], "source": "x"}
READ = tuple(Turn(role, content) for role, content in TURNS[:3])
PAIR = (Turn("user", "Hi"), Turn("assistant", "ho"))

CONTENT = st.text(min_size=1).filter(lambda text: bool(text.strip()))


@given(st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3))
def test_a_conversation_comes_back_from_its_document(pairs: list[tuple[str, str]]) -> None:
    turns = [t for asked, answer in pairs for t in (Turn("user", asked), Turn("assistant", answer))]
    assert list(from_document(as_document(turns))) == turns
    record = json.loads(as_document(turns))
    assert list(conversation_of(record)) == turns


def read(path: Path) -> list[Any]:
    return [from_document(text) for text in read_documents(path, CONVERSATIONS)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_lines(tmp_path: Path, suffix: str) -> None:
    records = [RECORD, {"prompt": "Hi", "completion": "ho"}, {"inputs": "Hi", "targets": "ho"}]
    data = "".join(json.dumps(each) + "\n" for each in records).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"chat{suffix}"
    path.write_bytes(pack.get(path.suffix, bytes)(data))
    assert read(path) == [READ, PAIR, PAIR]


def test_rows(tmp_path: Path) -> None:
    columns: list[dict[str, Any]] = [
        {"messages": [RECORD["messages"]] * 300, "id": list(range(300))},
        {"prompt": ["Hi"], "completion": ["ho"]},
        {"inputs": ["Hi"], "targets": ["ho"], "text": ["x"]},
    ]
    found = []
    for number, table in enumerate(columns):
        path = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(table), path, row_group_size=100)
        found.append(read(path))
    assert found == [[READ] * 300, [PAIR], [PAIR]]
    with pytest.raises(UserError, match=r"no column 'text'.*'messages' holds conversations, whose"):
        list(read_documents(tmp_path / "0.parquet"))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["Hi", None], "completion": ["a", "b"]}),
                                tmp_path / "none.parquet")  # fmt: skip
    with pytest.raises(UserError, match="row 2, message 1: the content is not a text"):
        read(tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (
            {"input": "x", "target": "y"},
            "line 2 has 'input' and 'target', the form for other tools",
        ),
        ({"text": "x"}, "line 2 has no 'messages', nor 'prompt' and 'completion'"),
        ({"messages": "x"}, "line 2, messages: not a list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "none is the assistant's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1: the role 'tool' is not sys"),
        ({"messages": [{"role": "user"}]}, "message 1: not a role and a content"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]},
            "message 2: the role system, which only the first",
        ),
        ({"prompt": "x", "completion": [1]}, "message 2: the content is not a text"),
        ({"prompt": " ", "completion": "x"}, "message 1: the content is empty"),
        ({"prompt": "\ud800", "completion": "x"}, "message 1: half a surrogate pair"),
        ([1], "line 2 has no key 'messages'; each line should be"),
    ],
)
def test_what_is_no_conversation_is_an_error(tmp_path: Path, record: Any, error: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(UserError, match=error):
        read(path)


def test_text_files_hold_no_conversations(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Hi")
    with pytest.raises(UserError, match=r"no conversations; give \.jsonl or"):
        read(path)


def test_what_is_put_aside_is_read_again_as_it_was(tmp_path: Path) -> None:
    every = [as_document((Turn("user", f"{n} " * 9), Turn("assistant", "é"))) for n in range(60)]
    aside = put_aside(lambda: every)
    aside.write(tmp_path / "heldout.jsonl", CONVERSATIONS)
    assert tuple(read_documents(tmp_path / "heldout.jsonl", CONVERSATIONS)) == aside.documents


def test_texts_under_another_key(tmp_path: Path) -> None:
    reading = Reading(text_key="content")
    lines, rows = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    lines.write_text('{"content": "a\\u00e9", "text": 1}\n{"content": ""}\n{"content": "b"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"], "content": ["a"]}), rows)
    assert list(read_documents(lines, reading)) == ["aé", "b"]
    assert list(read_documents(rows, reading)) == ["a"]
    lines.write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"no key 'content'; each line should be {\"content\": "):
        list(read_documents(lines, reading))
