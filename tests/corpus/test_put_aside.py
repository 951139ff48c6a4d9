"""A part of the training text that is held out: the same each time, and trained on nowhere."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.corpus import put_aside as module
from regrow.corpus.put_aside import PutAside, put_aside, without
from regrow.corpus.text import document_hash, read_documents
from tests.tiny import sentences


def choose(documents: Sequence[str]) -> PutAside:
    return put_aside(lambda: documents)


def test_some_documents_are_held_out_and_the_rest_is_trained_on() -> None:
    documents = sentences(300)
    found = choose(documents)
    left = [*without(documents, found.remains)]
    assert 0.04 < found.share < 0.08
    assert found.characters == sum(map(len, found.documents))
    assert sorted([*left, *found.documents]) == sorted(documents)
    assert [text for text in documents if text in found.documents] == [*found.documents]
    assert found.words().startswith(f"{len(found.documents)} of 300 documents, ")


def test_the_choice_is_that_of_the_least_hashes_in_any_order() -> None:
    documents = sentences(300)
    found = choose(documents)
    least = sorted(documents, key=document_hash)[: len(found.documents)]
    assert set(found.documents) == set(least)
    assert set(choose(documents[::-1]).documents) == set(least)


def test_most_of_it_stays_if_the_text_grows() -> None:
    before, after = choose(sentences(300)), choose(sentences(300) + sentences(30, seed=1))
    assert len({*before.documents} & {*after.documents}) >= 0.7 * len(before.documents)


def test_all_copies_of_a_document_are_held_out() -> None:
    documents = sentences(100)
    once = choose(documents)
    twice = choose(documents * 2)
    left = [*without(documents * 2, twice.remains)]
    assert not {*left} & {*twice.documents}
    assert twice.characters == len("".join(documents * 2)) - len("".join(left))
    assert {*twice.documents} == {*once.documents}
    assert twice.copies == 2 * len(once.documents)
    assert twice.words().startswith(f"{twice.copies} of 200 documents, ")


def test_a_text_of_many_copies_of_one_document_is_not_held_out_as_a_whole() -> None:
    documents = sentences(50)
    first = min(documents, key=document_hash)
    documents += [first] * 100
    left = [*without(documents, choose(documents).remains)]
    assert left.count(first) == 101
    assert len(left) < len(documents)


def test_copies_of_one_document_are_refused() -> None:
    with pytest.raises(UserError, match="copies of a few documents, so none can be put aside"):
        choose(sentences(1) * 100)


def test_of_a_single_document_the_end_is_held_out() -> None:
    text = "\n\n".join(sentences(100))
    found = choose([text])
    (left,) = without([text], found.remains)
    assert left + found.documents[0] == text
    assert left.endswith("\n\n")
    assert 0.05 <= found.share < 0.1
    assert found.words().startswith("the last ")


@pytest.mark.parametrize("at", [0, 3, 8])
def test_a_short_document_beside_long_ones_is_not_all_that_is_held_out(at: int) -> None:
    documents = [" ".join(sentences(15, seed=seed)) for seed in range(8)]
    documents.insert(at, "A note.")
    found = choose(documents)
    assert found.is_an_end
    assert 0.04 < found.share < 0.12
    long = [each for each in documents if len(each) > 100]
    assert long[-1].endswith(found.documents[0])
    assert [*without(documents, found.remains)][:-2] == documents[:-2]


def test_the_end_of_a_document_is_held_out_of_each_copy() -> None:
    documents = [" ".join(sentences(80))] * 3
    found = choose(documents)
    left = [*without(documents, found.remains)]
    assert found.copies == 3
    assert found.characters == len("".join(documents)) - len("".join(left))
    assert found.words().startswith(f"the last {len(found.documents[0]):,} characters of a docu")


def test_a_short_document_beside_copies_is_not_held_out_alone() -> None:
    with pytest.raises(UserError, match="most of the text is copies of a few documents"):
        choose([*[sentences(1)[0]] * 300, "A note."])


def test_a_part_of_a_large_text_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 300)
    found = choose(sentences(1_000))
    assert 300 <= found.characters < 500


@pytest.mark.parametrize("documents", [[], ["A river."], sentences(20)])
def test_a_short_text_is_refused(documents: list[str]) -> None:
    with pytest.raises(UserError, match="characters, too few to put some aside"):
        choose(documents)


def test_the_file_holds_the_documents_and_is_written_once(tmp_path: Path) -> None:
    found = choose(['é\u2028"\n' * 100, *sentences(100)])
    path = tmp_path / "heldout.jsonl"
    found.write(path)
    assert [*read_documents(path)] == [*found.documents]
    before = path.stat().st_mtime_ns
    found.write(path)
    assert path.stat().st_mtime_ns == before
