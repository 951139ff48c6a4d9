"""Long sentences are divided at good places, and read pieces give the whole again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.ner.answers import read_answer
from regrow.ner.pieces import divide, join, reading_of_tags
from regrow.ner.prompts import Question
from regrow.ner.sentences import Sentence, Span
from regrow.ner.tags import spans_of_tags

WORDS = st.sampled_from(["a", "b", ".", ",", "北"])
TAGS = st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"])


@given(st.lists(st.tuples(WORDS, TAGS), min_size=1, max_size=20), st.integers(1, 6))
def test_right_answers_of_pieces_give_the_whole(pairs: list[tuple[str, str]], most: int) -> None:
    tokens = tuple(word for word, _ in pairs)
    whole = Question(Sentence(tokens, spans_of_tags([tag for _, tag in pairs])), ("y", "x"))
    pieces = divide(whole, lambda question: len(question.sentence.tokens) <= most)
    assert tuple(token for piece in pieces for token in piece.sentence.tokens) == tokens
    assert all(len(piece.sentence.tokens) <= most for piece in pieces)
    assert [piece.offset for piece in pieces] == [
        sum(len(before.sentence.tokens) for before in pieces[:place])
        for place in range(len(pieces))
    ]
    found = join([read_answer(piece.answer, piece) for piece in pieces])
    assert found.spans == whole.sentence.spans
    assert spans_of_tags(found.tags) == whole.sentence.spans


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one two , three . four five six", "one two , three ."),
        ("one . two three four , five six seven eight nine ten", "one . two three four ,"),
        ("one two three four", "one two"),
    ],
)
def test_the_place_of_a_division(text: str, first: str) -> None:
    tokens = tuple(text.split())
    whole = Question(Sentence(tokens, ()), ("x",))
    pieces = divide(whole, lambda question: len(question.sentence.tokens) < len(tokens))
    assert pieces[0].sentence.text == first


def test_an_entity_goes_on_only_after_its_own_type() -> None:
    first, second = reading_of_tags(["O", "B-x"]), reading_of_tags(["I-x", "O"])
    assert join([first, second]).spans == (Span(1, 3, "x"),)
    other = reading_of_tags(["B-x", "O"])
    assert join([first, other]).spans == (Span(1, 2, "x"), Span(2, 3, "x"))
    assert join([reading_of_tags(["O", "B-y"]), second]).spans == (Span(1, 2, "y"), Span(2, 3, "x"))


def test_a_word_that_does_not_fit_is_refused() -> None:
    whole = Question(Sentence(("a", "b"), ()), ("x", "y"))
    with pytest.raises(UserError, match="a prompt with 2 types and one word does not fit"):
        divide(whole, lambda question: False)
