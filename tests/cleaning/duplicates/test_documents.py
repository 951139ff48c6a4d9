"""The first of equal and of similar documents stays."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regrow.cleaning.cleaner import RECORD
from regrow.cleaning.config import Duplicates, Near
from regrow.cleaning.duplicates.documents import find_leaders
from regrow.cleaning.duplicates.signatures import (
    HASHES,
    Bands,
    bands_for,
    signatures_of,
    similarity,
)
from regrow.cleaning.parts import text_hash
from regrow.cleaning.word_hashes import normalised, word_pieces
from regrow.cleaning.work_files import read_array

pytest.importorskip("rensa")
WORDS = [f"word{number}" for number in range(400)]


def leaders(tmp_path: Path, texts: list[str], wanted: Duplicates, memory: int = 50) -> list[int]:
    texts = [normalised(text) for text in texts]
    records = np.zeros(len(texts), RECORD)
    records["exact"] = np.array([text_hash(text) for text in texts], np.uint64).reshape(-1, 2)
    near = wanted.near.ngram if isinstance(wanted.near, Near) else 1
    (tmp_path / "signatures").write_bytes(signatures_of([*map(word_pieces, texts)], near).tobytes())
    out = tmp_path / "leaders"
    find_leaders(records, tmp_path / "signatures", wanted, out, memory)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaders", "signatures"]
    found: NDArray[np.int64] = read_array(out, np.int64)
    return [int(each) for each in found]


def with_changes(words: list[str], *places: int) -> str:
    return " ".join("other" if at in places else word for at, word in enumerate(words))


def test_equal_documents(tmp_path: Path) -> None:
    texts = ["A b", "c", "a  B\n", "c d", "A B", "c"]
    assert leaders(tmp_path, texts, Duplicates(near=False)) == [0, 1, 0, 3, 0, 1]
    assert leaders(tmp_path, texts, Duplicates(exact=False, near=False)) == [*range(6)]
    assert leaders(tmp_path, [], Duplicates()) == []


def test_similar_documents_and_others(tmp_path: Path) -> None:
    base, far = WORDS[:200], WORDS[200:]
    texts = [
        " ".join(base), " ".join(far), with_changes(base, 50), with_changes(far, 3, 4),
        " ".join(base[100:] + far[:100]), with_changes(base, *range(0, 200, 4)), "short", "short",
    ]  # fmt: skip
    assert leaders(tmp_path, texts, Duplicates()) == [0, 1, 0, 1, 4, 5, 6, 6]


def test_a_document_goes_only_for_one_that_it_is_like(tmp_path: Path) -> None:
    """The second is like the first, and the third like the second, but not like the first."""
    base = WORDS[:200]
    changed = [*range(0, 24, 2)], [*range(100, 124, 2)]
    texts = [with_changes(base), with_changes(base, *changed[0]),
             with_changes(base, *changed[0], *changed[1])]  # fmt: skip
    wanted = Duplicates(near=Near(threshold=0.7, ngram=3))
    found = leaders(tmp_path, texts, wanted)
    rows = signatures_of([*map(word_pieces, texts)], 3)
    near = similarity(rows[[0, 1, 0]], rows[[1, 2, 2]])
    assert (near[:2] >= 0.7).all()
    assert near[2] < 0.7
    assert found == [0, 0, 2]


def test_chinese_is_compared_by_characters(tmp_path: Path) -> None:
    base = "".join(chr(0x4E00 + 7 * number) for number in range(300))
    texts = [
        base,
        base[:150] + "\u4e00" + base[151:],
        base[150:] + "".join(map(chr, range(0x6000, 0x6096))),
    ]
    assert leaders(tmp_path, texts, Duplicates()) == [0, 0, 2]


def test_the_memory_changes_nothing(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = []
    for _ in range(30):
        words = [WORDS[at] for at in draw.integers(0, 8, 30)]
        texts += [" ".join(words), with_changes(words, *draw.integers(0, 30, 2).tolist())]
    wanted = Duplicates(near=Near(threshold=0.5, ngram=2))
    found = leaders(tmp_path, texts, wanted, memory=1 << 20)
    assert 5 < len({*found}) < 58
    for memory in (100, 1000):
        assert leaders(tmp_path, texts, wanted, memory) == found
    assert all(found[leader] == leader <= at for at, leader in enumerate(found))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_signatures_estimate_the_similarity(share: float) -> None:
    errors = []
    for number in range(40):
        common = round(2 * share / (1 + share) * 300)
        one = [f"a{number}b{at}" for at in range(300)]
        two = one[:common] + [f"c{number}d{at}" for at in range(300 - common)]
        rows = signatures_of([word_pieces(" ".join(text)) for text in (one, two)], 1)
        assert rows.shape == (2, HASHES)
        errors.append(float(similarity(rows[:1], rows[1:])[0]))
    assert np.mean(errors) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= HASHES
    assert 1 - (1 - threshold**rows) ** bands >= 0.95
    assert bands_for(0.7) == Bands(25, 5)
