"""The scores, against numbers by hand and against seqeval."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.ner.answers import Reading
from regrow.ner.pieces import reading_of_tags
from regrow.ner.scores import Counts, score
from regrow.ner.sentences import Sentence, Span
from regrow.ner.tags import spans_of_tags

TAGS = st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"])


def _sentence(tags: list[str], words: str = "") -> Sentence:
    tokens = words.split() if words else [f"w{place}" for place in range(len(tags))]
    return Sentence(tuple(tokens), spans_of_tags(tags))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # seqeval's, where there is no entity
@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_strict_score_is_that_of_seqeval(pairs: list[list[tuple[str, str]]]) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    gold = [[right for right, _ in sentence] for sentence in pairs]
    said = [[guess for _, guess in sentence] for sentence in pairs]
    found = score(list(map(_sentence, gold)), list(map(reading_of_tags, said)))
    for ours, theirs in (
        (found.strict.f1, seqeval.f1_score),
        (found.strict.precision, seqeval.precision_score),
        (found.strict.recall, seqeval.recall_score),
    ):
        assert ours == pytest.approx(theirs(gold, said, zero_division=0), abs=1e-12)
    rows = seqeval.classification_report(gold, said, output_dict=True, zero_division=0)
    for kind, counts in found.by_type.items():
        assert counts.f1 == pytest.approx(rows[kind]["f1-score"], abs=1e-12)


def test_scores_by_hand() -> None:
    sentence = _sentence(["B-x", "I-x", "O", "B-y"])
    found = score(
        [sentence], [Reading(("B-x", "O", "O", "B-y"), (Span(0, 1, "x"), Span(3, 4, "y")), 1, 0)]
    )
    assert found.strict == Counts(right=1, predicted=3, gold=2)
    assert (found.strict.precision, found.strict.recall, found.strict.f1) == (1 / 3, 1 / 2, 0.4)
    assert found.by_type == {"x": Counts(0, 1, 1), "y": Counts(1, 1, 1)}
    assert found.unaligned == 1


def test_the_score_of_the_report_compares_texts_once() -> None:
    words = "The Beatles saw the beatles , and Queen"
    gold = _sentence(["B-band", "I-band", "O", "O", "B-band", "O", "O", "B-band"], words)
    said = reading_of_tags(["O", "B-band", "O", "O", "O", "O", "O", "B-song"])
    found = score([gold], [said])
    assert found.report == Counts(right=1, predicted=2, gold=2)
    assert found.strict == Counts(right=0, predicted=2, gold=3)


def test_without_entities_the_scores_are_0() -> None:
    found = score([_sentence(["O"])], [reading_of_tags(["O"])])
    assert (found.strict.precision, found.strict.recall, found.strict.f1) == (0, 0, 0)
