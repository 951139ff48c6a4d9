"""Answers are read back: exactly if they repeat the sentence, aligned if they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.ner.answers import read_answer
from regrow.ner.prompts import Question
from regrow.ner.scores import score
from regrow.ner.sentences import Sentence, Span
from regrow.ner.tags import spans_of_tags

TYPES = ("person", "Time", "time", "group/person (many)", "a_b", "O")
AWKWARD = (
    "a", "(O)", "(B-time)", "(B-x)", "b(O)", "(", ")", "()", "O", "B-time", "I-person", "\u2028",
    "\xa0", "é", "科", "ﬁ", "\u200b", "(I-a b)", "x y", "\\", "$", "\uff21\uff22",
)  # fmt: skip


@st.composite
def _questions(draw: st.DrawFn) -> Question:
    tokens = draw(st.lists(st.sampled_from(AWKWARD), min_size=1, max_size=8))
    letters = st.sampled_from([f"{letter}-{name}" for letter in "BI" for name in TYPES] + ["O"] * 6)
    tags = draw(st.lists(letters, min_size=len(tokens), max_size=len(tokens)))
    joiner = draw(st.sampled_from([" ", ""]))
    types = draw(st.permutations(TYPES))
    return Question(Sentence(tuple(tokens), spans_of_tags(tags), joiner), tuple(types))


@given(_questions())
def test_the_right_answer_scores_100(question: Question) -> None:
    reading = read_answer(question.answer, question)
    found = score([question.sentence], [reading])
    assert reading.spans == question.sentence.spans
    assert (reading.unaligned, reading.missing) == (0, 0)
    assert found.strict.right == found.strict.predicted == found.strict.gold
    assert found.report.right == found.report.predicted == found.report.gold


CITY = Question(
    Sentence(("Bob", "do", "n't", "like", "New", "York", ",", "Bob"), (Span(4, 6, "city"),)),
    ("city", "person"),
)


@pytest.mark.parametrize(
    ("answer", "spans", "unaligned", "missing"),
    [
        # Other case and spaces.
        ("BOB (b-Person)  do(O)n't (O) like(O)\nNew(B-CITY)York( I-city ),(O) bob(O)",
         [(0, 1, "person"), (4, 6, "city")], 0, 0),
        # Words left out, and words divided in another way.
        ("Bob(B-person) don't(O) like(O) NewYork(B-city)",
         [(0, 1, "person"), (4, 6, "city")], 0, 2),
        # A repeated word belongs to the mention that its neighbours give.
        ("York(I-city) ,(O) Bob(B-person)", [(5, 6, "city"), (7, 8, "person")], 0, 5),
        # One tag for two words.
        ("Bob(O) do(O) n't(O) like(O) New York(B-city) ,(O) Bob(O)", [(4, 6, "city")], 0, 0),
        # A word that is not there; half of an entity that is not there.
        ("Paris(B-city) Bob(O)", [], 1, 7),
        ("New(B-city) Orleans(I-city)", [], 1, 7),
        # A type that nobody asked for.
        ("Bob(B-dog) do(O)", [], 0, 6),
        # What is said before the answer, and nothing at all.
        ("Sure, here is Bob:\nBob(B-person) do(O)", [(0, 1, "person")], 0, 6),
        ("", [], 0, 8),
        ("no tags here", [], 0, 8),
    ],
)  # fmt: skip
def test_an_answer_is_aligned(
    answer: str, spans: list[tuple[int, int, str]], unaligned: int, missing: int
) -> None:
    reading = read_answer(answer, CITY)
    assert reading.spans == tuple(Span(*span) for span in spans)
    assert (reading.unaligned, reading.missing) == (unaligned, missing)


def test_chinese_words_cover_their_characters() -> None:
    sentence = Sentence(tuple("我在北京大学。北京"), (), joiner="")
    answer = "我(O)在(O)北京(B-city)大学(I-city)。(O)北京(B-city)"
    reading = read_answer(answer, Question(sentence, ("city",)))
    assert reading.spans == (Span(2, 6, "city"), Span(7, 9, "city"))


def test_an_entity_that_is_not_in_the_sentence_counts_as_wrong() -> None:
    reading = read_answer("Paris(B-city) Bob(O) New(B-city) York(I-city)", CITY)
    found = score([CITY.sentence], [reading])
    assert (found.strict.right, found.strict.predicted, found.strict.gold) == (1, 2, 1)
    assert (found.report.right, found.report.predicted, found.report.gold) == (1, 1, 1)


def test_types_that_differ_by_case_alone_are_told_apart() -> None:
    question = Question(Sentence(("a", "b", "c"), ()), ("Time", "TIME"))
    reading = read_answer("a(B-Time) b(B-TIME) c(B-time)", question)
    assert reading.tags == ("B-Time", "B-TIME", "O")
