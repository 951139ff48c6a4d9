"""Tags in all schemes give the entities that they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.ner.sentences import Span, without_overlaps
from regrow.ner.tags import spans_of_tags, tags_of_spans

TAGS = [f"{letter}-{name}" for letter in "BIESLU" for name in ("x", "y")]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-x I-x O B-y", [(0, 2, "x"), (3, 4, "y")]),
        ("B-x B-x", [(0, 1, "x"), (1, 2, "x")]),
        ("I-x I-x O I-y", [(0, 2, "x"), (3, 4, "y")]),  # IOB1
        ("I-x B-x I-y", [(0, 1, "x"), (1, 2, "x"), (2, 3, "y")]),
        ("S-x B-x I-x E-x S-y", [(0, 1, "x"), (1, 4, "x"), (4, 5, "y")]),  # BIOES
        ("U-x U-x B-y L-y L-y", [(0, 1, "x"), (1, 2, "x"), (2, 4, "y"), (4, 5, "y")]),  # BILOU
        ("B-x M-x E-x O", [(0, 3, "x")]),  # BMES
        ("O O", []),
    ],
)
def test_entities_of_tags(tags: str, spans: list[tuple[int, int, str]]) -> None:
    assert spans_of_tags(tags.split()) == tuple(Span(*span) for span in spans)


@given(st.lists(st.sampled_from(["O", *TAGS]), min_size=1, max_size=12))
def test_the_entities_are_those_of_seqeval(tags: list[str]) -> None:
    get_entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    known = [tag.replace("U-", "S-").replace("L-", "E-") for tag in tags]  # its default knows both
    expected = {Span(first, last + 1, kind) for kind, first, last in get_entities(known)}
    assert set(spans_of_tags(tags)) == expected


def test_tags_of_entities_give_them_back() -> None:
    spans = (Span(0, 2, "x"), Span(2, 3, "x"), Span(4, 5, "y"))
    assert tags_of_spans(spans, 6) == ["B-x", "I-x", "B-x", "O", "B-y", "O"]
    assert spans_of_tags(tags_of_spans(spans, 6)) == spans


def test_of_overlapping_entities_the_longest_stay() -> None:
    spans = [Span(2, 3, "x"), Span(0, 2, "x"), Span(1, 4, "y"), Span(4, 5, "x"), Span(4, 5, "x")]
    assert without_overlaps(spans) == ((Span(1, 4, "y"), Span(4, 5, "x")), 2)
