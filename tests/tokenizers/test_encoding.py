import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from regrow.common.errors import UserError
from regrow.corpus.long_documents import Encoded, encode_in_windows
from regrow.tokenizers import encoding
from regrow.tokenizers.encoding import count_tokens
from tests.tokenizers.bpe_cases import Json, load, tokenizer_json


def write(directory: Path, contents: Json) -> Path:
    (directory / "tokenizer.json").write_text(json.dumps(contents), encoding="utf-8")
    return directory


def test_counts_are_those_of_single_encodings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = tokenizer_json([("a", "b"), ("Ġ", "ab")], outside=["<pad>", "[img]"])
    documents = ["ab ab c", "", "é[img]<s>", "abab", "日" * 30]
    tokenizer = load(contents)
    expected = np.zeros(256 + 1 + 2 + 2, dtype=np.int64)
    for document in documents:
        for token in tokenizer.encode(document).ids:
            expected[token] += 1
    write(tmp_path, contents)
    for characters in (1, 10, 1 << 20):
        monkeypatch.setattr(encoding, "_CHUNK_CHARACTERS", characters)
        counts = count_tokens(tmp_path, iter(documents))
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, expected)


def test_a_long_text_has_the_tokens_that_it_has_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load(tokenizer_json([("a", "b"), ("Ġ", "ab")]))
    texts = ["ab", "ab c abab d" * 200, "", "dab"]
    whole = [tokenizer.encode(text).ids for text in texts]
    monkeypatch.setattr(encoding, "WINDOW", 1000)
    windows: list[int] = []

    def in_windows(text: str, encode_window: Callable[[str], Encoded]) -> Encoded:
        windows.append(len(text))
        return encode_in_windows(text, encode_window, 1000, 200)

    monkeypatch.setattr(encoding, "encode_in_windows", in_windows)
    ids, lengths = encoding.encode(tokenizer, texts)
    assert ids.tolist() == [token for each in whole for token in each]
    assert lengths.tolist() == [len(each) for each in whole]
    assert windows == [len(texts[1])]


def test_truncation_padding_and_special_tokens_are_left_out(tmp_path: Path) -> None:
    contents = tokenizer_json([("a", "b")])
    start = contents["model"]["vocab"]["<s>"]
    contents["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    contents["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": start,
        "pad_type_id": 0,
        "pad_token": "<s>",
    }
    contents["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["<s>", start],
        "cls": ["<s>", start],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    counts = count_tokens(write(tmp_path, contents), ["abababab", "a"])
    assert counts[start] == 0
    assert counts.sum() == 5


def test_no_documents_and_holes_in_the_ids(tmp_path: Path) -> None:
    contents = tokenizer_json([("a", "b")], order=[*range(257), 900])
    counts = count_tokens(write(tmp_path, contents), [])
    assert counts.shape == (901,)
    assert not counts.any()


def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_CHUNK_CHARACTERS", 2_000)
    write(tmp_path, tokenizer_json([("a", "b")]))

    def documents(number: int) -> Iterator[str]:
        return (f"document {i} " * 10 for i in range(number))

    def peak(number: int) -> int:
        tracemalloc.start()
        try:
            count_tokens(tmp_path, documents(number))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(50)
    assert peak(4_000) < 2 * peak(200)


def test_a_missing_or_malformed_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        count_tokens(tmp_path, [])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        count_tokens(tmp_path, [])
