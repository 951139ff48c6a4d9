import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.text import documents_sha256, read_documents

UNICODE = st.text(st.characters(codec="utf-8"), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(texts=st.lists(UNICODE, min_size=1, max_size=5), ascii_only=st.booleans())
def test_json_lines_give_back_their_texts(
    tmp_path: Path, texts: list[str], ascii_only: bool
) -> None:
    lines = "".join(json.dumps({"text": t}, ensure_ascii=ascii_only) + "\n" for t in texts)
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(lines.encode())
    packed.write_bytes(gzip.compress(lines.encode(), mtime=0))
    assert list(read_documents(plain)) == texts
    assert list(read_documents(packed)) == texts


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "one\u2028two\x0b\x0c\x1c\x85three"
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps({"text": text}, ensure_ascii=False).encode())
    assert list(read_documents(path)) == [text]


def test_blank_lines_and_empty_texts_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n{"text": ""}\n{"text": "b"}')
    assert list(read_documents(path)) == ["a", "b"]


def test_a_text_file_is_one_document_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo\n".encode())
    assert list(read_documents(path)) == ["one\r\n\r\ntwo\n"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", "no text"),
        ("a.txt", b" \n", "no text"),
        ("a.txt", b"one\ntw\xff\n", "line 2 is not UTF-8"),
        ("a.jsonl", b"", "no document"),
        ("a.jsonl", b'{"text": ""}\n', "no document"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2 is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "line 2 has no key 'text'"),
        ("a.jsonl", b'["text"]\n', "line 1 has no key 'text'"),
        ("a.jsonl", b'{"text": 3}\n', "line 1, key 'text': not a string"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
        ("a.jsonl", b"text\n", "line 1 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl.gz", b"text", "not a complete gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9],
            "not a complete gzip file",
        ),
        ("a.csv", b"text", "unknown kind of text"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_documents(tmp_path / "a.txt")


def test_the_hash_is_sha256_over_lengths_and_texts() -> None:
    expected = hashlib.sha256(b"\x02" + bytes(7) + "é".encode() + b"\x01" + bytes(7) + b"a")
    assert documents_sha256(["é", "a"]) == expected.hexdigest()


@given(st.lists(UNICODE, max_size=4), st.lists(UNICODE, max_size=4))
def test_the_hash_tells_texts_apart(one: list[str], other: list[str]) -> None:
    assert (documents_sha256(one) == documents_sha256(other)) == (one == other)


@pytest.mark.parametrize("module", ["regrow.corpus.text", "regrow.training.settings"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
