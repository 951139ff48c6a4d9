"""Text files, stores and both, alone and in shares, give the rows and windows of their text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regrow.common.errors import UserError
from regrow.corpus import sources, turns
from regrow.corpus.concatenation import ConcatenatedRows, ConcatenatedWindows
from regrow.corpus.mixed_order import BLOCK
from regrow.corpus.packing import pack
from regrow.corpus.reading import Reading
from regrow.corpus.samples import DataOrder, data_order
from regrow.corpus.sources import (
    Corpus,
    Source,
    WrittenSource,
    packed,
    windows_of,
)
from regrow.corpus.text import document_hash, documents_sha256
from regrow.corpus.tokenizer_hash import tokenizer_sha256
from regrow.corpus.turns import files_in_turns
from regrow.corpus.windows import cut_windows
from tests.corpus.stores import write
from tests.tiny import write_text
from tests.training.small import EOS, byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = {"a": ["one", "two three"], "b": ["vier"], "c": ["five, six, seven", "acht"]}


def text_file(directory: Path, name: str) -> Path:
    path = directory / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[name]))
    return path


def store(directory: Path, name: str, facts: bool = True) -> Path:
    ids = [[*TOKENIZER(text)["input_ids"], EOS] for text in TEXTS[name]]
    (directory / name).mkdir(exist_ok=True)
    write(directory / name / "tokens", ids)
    if facts:
        (directory / name / "tokens.json").write_text(
            json.dumps({"end": EOS, "tokenizer_sha256": tokenizer_sha256(TOKENIZER)})
        )
    return directory / name


def corpus(*paths: Path) -> Corpus:
    return Corpus((Source(name="train", path=list(paths)),))


def mixture(paths: list[Path], key: str, shares: list[int]) -> Corpus:
    """Each path a source, with a `weight` or `tokens`."""
    return Corpus(
        tuple(
            Source.model_validate({"path": path, key: share})
            for path, share in zip(paths, shares, strict=True)
        )
    )


def rows(samples: Any) -> list[list[int]]:
    found: list[list[int]] = samples.batch(np.arange(len(samples)), np.arange(len(samples)))[
        "labels"
    ].tolist()
    return found


def test_names_of_special_tokens_are_tokens_if_the_corpus_says_so(tmp_path: Path) -> None:
    """And in text that a model writes, whatever the corpus says."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "one<eos>two"}) + "\n")
    given = Source(name="given", path=path)
    by_model = Source(name="model", model="original", tokens=9)
    written = {"model": WrittenSource(path, "x")}
    plain, meant = Corpus((given,)), Corpus((given,), reading=Reading(special_tokens=True))
    assert plain.identity != meant.identity
    assert plain.counts(TOKENIZER) == (1, 11)
    assert meant.counts(TOKENIZER) == Corpus((by_model,), written).counts(TOKENIZER) == (1, 7)
    one, two = (TOKENIZER(text)["input_ids"] for text in ("one", "two"))
    assert rows(packed(meant, TOKENIZER, 8)) == [[*one, EOS, *two, EOS]]


def test_text_of_a_path_is_counted_or_half_of_what_a_model_wrote(tmp_path: Path) -> None:
    """A half of each kind, where texts of two kinds alternate, as with two prompts."""
    by_model = Source(name="model", model="original", tokens=9)
    texts = [f"{kind} {number}" for number in range(100) for kind in ("one", "two")]
    written = {"model": WrittenSource(write_text(tmp_path / "own.jsonl", texts), "x")}
    given = corpus(text_file(tmp_path, "a"), text_file(tmp_path, "b")).sources
    both = Corpus((by_model, *given), written, remains={document_hash("vier"): 0})
    assert [*both.counted_documents(TOKENIZER)] == TEXTS["a"]
    half = [*Corpus((by_model,), written).counted_documents(TOKENIZER)]
    assert half == [text for text in texts if text in half]
    assert all(40 <= sum(kind in text for text in half) <= 60 for kind in ("one", "two"))


def test_text_alone_is_packed_as_ever(tmp_path: Path) -> None:
    files = [text_file(tmp_path, name) for name in "abc"]
    texts = [text for name in "abc" for text in TEXTS[name]]
    found = packed(corpus(*files), TOKENIZER, 8)
    assert found.identity == pack(texts, TOKENIZER, 8).identity
    assert packed(texts, TOKENIZER, 8).identity == found.identity
    assert corpus(*files).identity == documents_sha256(texts)
    windows = windows_of(corpus(*files), TOKENIZER, 5)
    assert windows.identity == cut_windows(texts, TOKENIZER, 5).identity
    assert isinstance(data_order(found, 1), DataOrder)


def test_files_of_one_source_take_turns_as_where_a_plan_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a directory too, without what is held out; an empty one is passed over."""
    monkeypatch.setattr(turns, "TURN", 5)
    (tmp_path / "more").mkdir()
    for name in "bcd":
        write_text(tmp_path / "more" / f"{name}.jsonl", [name * 5] * 3)
    (tmp_path / "more" / "empty.txt").write_text("")
    paths = [write_text(tmp_path / "a.jsonl", ["a" * 15, "aside", "a"]), tmp_path / "more"]
    one = Corpus(corpus(*paths).sources, remains={document_hash("aside"): 0})
    text = one.in_turns(TOKENIZER)
    beginning = ["aaaaa", "bbbbb", "ccccc", "ddddd"] * 2
    assert [*text.divided()][: len(beginning)] == beginning
    assert sorted(text()) == sorted(["a" * 15, "a", *[name * 5 for name in "bcd"] * 3])
    whole = corpus(*paths).in_turns(TOKENIZER)
    assert [*whole.divided()] == [*files_in_turns(paths).divided()]
    monkeypatch.setattr(turns, "_GROUPS", 2)
    assert len(corpus(*paths).in_turns(TOKENIZER).texts) == 2
    assert [*corpus(*paths).documents(TOKENIZER)] == [*files_in_turns(paths)()]


def test_the_files_of_several_sources_take_turns_in_the_turns_of_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also documents that are longer than a turn, as a `.txt` file is."""
    monkeypatch.setattr(turns, "TURN", 6)
    paths = [write_text(tmp_path / f"{name}.jsonl", [name * 30]) for name in "abc"]
    two = Corpus((Source(name="x", path=paths[:2]), Source(name="y", path=paths[2])))
    text = two.in_turns(TOKENIZER)
    assert "".join(text.divided()).startswith("aaabbbccccccaaabbbcccccc")
    assert sorted(text()) == [name * 30 for name in "abc"]


def test_sources_of_many_files_have_few_open_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_GROUPS", 4)
    opened: list[Path] = []

    def documents(file: Path) -> Iterator[str]:
        opened.append(file)
        yield from ["a" * 9] * 9
        opened.remove(file)

    monkeypatch.setattr(turns, "TURN", 3)
    monkeypatch.setattr(Corpus, "_text", lambda _, path, __: documents(path))
    paths = [text_file(tmp_path, name) for name in "abc"]
    for number in (2, 3):
        text = (
            Corpus(tuple(Source(name=str(n), path=paths) for n in range(number)))
            .in_turns(TOKENIZER)
            .divided()
        )
        most = max(len(opened) for _ in text)
        assert most == (4 if number == 2 else 3)
        assert not opened


def test_a_file_alone_is_read_from_its_beginning_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN", 4)
    text = corpus(text_file(tmp_path, "c")).in_turns(TOKENIZER)
    assert [*text.divided()] == [*text()] == TEXTS["c"]


def test_stores_of_one_source_take_turns_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN", 3)
    both = corpus(store(tmp_path, "a"), text_file(tmp_path, "c"))
    assert [*both.documents(TOKENIZER)] == ["one", TEXTS["c"][0], "two three", "acht"]
    assert [*both.in_turns(TOKENIZER).divided()][:4] == ["one", "fiv", "two", "e, "]


@pytest.mark.parametrize("facts", [True, False])
def test_a_store_is_as_its_text(tmp_path: Path, facts: bool) -> None:
    """Also one that does not say what ends its documents."""
    one = corpus(store(tmp_path, "a", facts))
    assert rows(packed(one, TOKENIZER, 4)) == rows(pack(TEXTS["a"], TOKENIZER, 4))
    found, expected = windows_of(one, TOKENIZER, 4), cut_windows(TEXTS["a"], TOKENIZER, 4)
    assert len(found) == len(expected)
    assert [p.tolist() for p in found.pieces(np.arange(len(found)))] == [
        expected[n].tolist() for n in range(len(expected))
    ]
    assert list(one.documents(TOKENIZER)) == TEXTS["a"]
    assert one.counts(TOKENIZER) == (2, 12)


def test_stores_and_texts_follow_each_other(tmp_path: Path) -> None:
    both = corpus(store(tmp_path, "a"), text_file(tmp_path, "b"), text_file(tmp_path, "c"))
    found = packed(both, TOKENIZER, 4)
    texts = [*TEXTS["b"], *TEXTS["c"]]
    assert rows(found) == rows(pack(TEXTS["a"], TOKENIZER, 4)) + rows(pack(texts, TOKENIZER, 4))
    assert found.row_length == 4
    assert found.lengths(np.arange(len(found))).tolist() == [4] * len(found)
    assert isinstance(data_order(found, 1), DataOrder)
    windows = windows_of(both, TOKENIZER, 5)
    parts = [cut_windows(TEXTS["a"], TOKENIZER, 5), cut_windows(texts, TOKENIZER, 5)]
    expected = [part[n].tolist() for part in parts for n in range(len(part))]
    assert [windows[n].tolist() for n in range(len(windows))] == expected
    assert windows.lengths_of(np.arange(len(windows))).tolist() == [len(e) for e in expected]
    assert windows.text_tokens == sum(len(e) for e in expected)
    assert windows.longest_length == max(len(e) for e in expected)
    assert list(both.documents(TOKENIZER)) == [*TEXTS["a"], *texts]
    assert both.counts(TOKENIZER) == (5, 12 + 4 + 16 + 4)


def test_sources_come_in_their_shares(tmp_path: Path) -> None:
    mixed = mixture([store(tmp_path, "a"), text_file(tmp_path, "b")], "weight", [3, 1])
    found = packed(mixed, TOKENIZER, 4)
    assert isinstance(found, ConcatenatedRows)
    order = data_order(found, 5).rows(0, 2 * BLOCK)
    assert order.tolist() == data_order(packed(mixed, TOKENIZER, 4), 5).rows(0, 2 * BLOCK).tolist()
    assert np.bincount(found.sources_of(order)).tolist() == [BLOCK * 3 // 2, BLOCK // 2]
    batch = found.batch(order[:50], np.arange(50))
    each = found.batch(np.arange(len(found)), np.arange(len(found)))
    assert all((batch[name] == each[name][order[:50]]).all() for name in each)
    with pytest.raises(IndexError):
        found.batch(np.array([len(found)]), np.array([0]))


def test_shares_of_tokens(tmp_path: Path) -> None:
    """Windows of unlike length, tokens of like number."""
    mixed = mixture([text_file(tmp_path, "b"), store(tmp_path, "c")], "tokens", [500, 1500])
    found = windows_of(mixed, TOKENIZER, 10)
    assert isinstance(found, ConcatenatedWindows)
    order = data_order(found, 5).rows(0, 4 * BLOCK)
    lengths, sources = found.lengths_of(order), found.sources_of(order)
    assert lengths[sources == 1].sum() / lengths.sum() == pytest.approx(0.75, abs=0.002)
    with pytest.raises(IndexError):
        found[len(found)]


def test_identity_is_that_of_what_is_read(tmp_path: Path) -> None:
    a, b, c = text_file(tmp_path, "a"), store(tmp_path, "b"), text_file(tmp_path, "c")
    many = [
        corpus(a, b), corpus(b, a), corpus(a, c), mixture([a, b], "weight", [1, 2]),
        mixture([a, b], "weight", [2, 2]), mixture([b, a], "weight", [2, 1]),
    ]  # fmt: skip
    assert len({one.identity for one in many}) == len(many)
    made = [packed(one, TOKENIZER, 4).identity for one in many]
    assert len(set(made)) == len(made)
    assert corpus(a, b).identity == corpus(a, b).identity


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    from tests.corpus.stores import lowercasing

    mixed = mixture([store(tmp_path, "a"), text_file(tmp_path, "b")], "weight", [3, 1])
    mixed.check(TOKENIZER)
    other = lowercasing(TOKENIZER)
    for ask in (mixed.check, lambda t: packed(mixed, t, 4), lambda t: windows_of(mixed, t, 4)):
        with pytest.raises(UserError, match="made with another tokenizer") as caught:
            ask(other)
        assert "\n" not in str(caught.value)


def test_the_source_that_is_too_short_is_named(tmp_path: Path) -> None:
    mixed = mixture([store(tmp_path, "a"), text_file(tmp_path, "b")], "weight", [3, 1])
    with pytest.raises(UserError, match=r"data.train: b: the text is 5 tokens, less than"):
        packed(mixed, TOKENIZER, 6)


def test_of_a_large_store_a_part_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_DECODED", 11)
    monkeypatch.setitem(TEXTS, "d", [f"text {n}" for n in range(10)])
    found = list(corpus(store(tmp_path, "d")).documents(TOKENIZER))
    assert found == ["text 0", "text 7"]


def test_the_beginning_of_a_corpus_holds_text_of_each_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN", 40)
    paths = [tmp_path / f"{name}.jsonl" for name in "abc"]
    for path in paths:
        path.write_text("".join(json.dumps({"text": path.stem * 10}) + "\n" for _ in range(9)))
    corpus = Corpus(tuple(Source(name=path.stem, path=path) for path in paths))
    order = "".join(text[0] for text in corpus.documents(byte_tokenizer()))
    assert order == "aaaabbbbcccc" * 2 + "abc"
