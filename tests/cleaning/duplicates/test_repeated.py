"""Repeated paragraphs and runs of sentences, compared with the plain way to find them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.cleaning.cleaner import RECORD
from regrow.cleaning.duplicates.repeated import mark_paragraphs, mark_sentences
from regrow.cleaning.work_files import read_array

DOCUMENTS = st.lists(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=3), max_size=6
)
"""Documents of paragraphs of sentences, each a small hash."""


@settings(max_examples=25)
@given(DOCUMENTS, st.integers(1, 4), st.booleans(), st.sampled_from([2, 100]), st.data())
def test_as_the_plain_way(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]], run: int,
    by_line: bool, memory: int, data: st.DataObject,
) -> None:  # fmt: skip
    place = tmp_path_factory.mktemp("marks")
    stay = data.draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents)))
    leaders = np.array([at if stays else -1 for at, stays in enumerate(stay)], np.int64)
    records = np.zeros(len(documents), RECORD)
    records["paragraphs"] = [len(document) for document in documents]
    records["sentences"] = [sum(map(len, document)) for document in documents]
    lines = [hash(tuple(part)) % (1 << 64) or 1 for document in documents for part in document]
    counts = np.array([len(part) for document in documents for part in document], np.uint32)
    sentences = [each for document in documents for part in document for each in part]

    mark_paragraphs(records, leaders, np.array(lines, np.uint64), place / "lines", memory)
    marks = read_array(place / "lines", np.uint8)
    seen: set[object] = set()
    wanted_lines = []
    for document, stays in zip(documents, stay, strict=True):
        for part in document:
            wanted_lines.append(int(stays and tuple(part) in seen))
            seen |= {tuple(part)} if stays else set()
    assert marks.tolist() == wanted_lines

    mark_sentences(
        records, leaders, (counts, marks if by_line else None), np.array(sentences, np.uint64), run,
        place / "sentences", memory,
    )  # fmt: skip
    found = read_array(place / "sentences", np.uint8).tolist()
    wanted = [0] * len(sentences)
    runs: set[object] = set()
    at = line = 0
    for document, stays in zip(documents, stay, strict=True):
        left: list[int] = []
        for part in document:
            if stays and not (by_line and wanted_lines[line]):
                left += range(at, at + len(part))
            at, line = at + len(part), line + 1
        for start in range(len(left) - run + 1):
            key = tuple(sentences[each] for each in left[start : start + run])
            if key in runs:
                for each in left[start : start + run]:
                    wanted[each] = 1
            runs.add(key)
    assert found == wanted
    assert sorted(path.name for path in place.iterdir()) == ["lines", "sentences"]


def test_short_paragraphs_are_not_compared(tmp_path: Path) -> None:
    records = np.zeros(1, RECORD)
    records["paragraphs"] = 4
    hashes = np.array([0, 0, 5, 5], np.uint64)
    mark_paragraphs(records, np.zeros(1, np.int64), hashes, tmp_path / "marks")
    assert read_array(tmp_path / "marks", np.uint8).tolist() == [0, 0, 0, 1]
