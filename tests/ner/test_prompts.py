"""Prompts list types in an order that the sentence decides, and answers are as they say."""

from regrow.ner.prompts import (
    Question,
    evaluation_question,
    training_question,
    type_words,
)
from regrow.ner.sentences import Sentence, Span, entity_set

SENTENCES = [
    Sentence(("Bob", "saw", "New", "York"), (Span(0, 1, "PERSON"), Span(2, 4, "Big_City"))),
    *(Sentence((f"word{n}", "x"), (Span(0, 1, f"type{n}"),)) for n in range(30)),
]
SET = entity_set("set", SENTENCES)


def test_prompt_and_answer() -> None:
    question = Question(SENTENCES[0], ("Big_City", "PERSON"))
    assert question.prompt.endswith("Types: big city, person. Sentence: Bob saw New York")
    assert question.answer == "Bob(B-person) saw(O) New(B-big city) York(I-big city)"


def test_types_that_are_not_asked_for_are_outside() -> None:
    assert Question(SENTENCES[0], ("PERSON",)).answer == "Bob(B-person) saw(O) New(O) York(O)"


def test_chinese_has_no_spaces() -> None:
    sentence = Sentence(tuple("在北京"), (Span(1, 3, "LOC"),), joiner="")
    assert Question(sentence, ("LOC",)).answer == "在(O)北(B-loc)京(I-loc)"


def test_words_of_types_are_distinct_and_have_no_round_brackets() -> None:
    words = type_words(["A_b", "a b", "Person", "c (d)", "__", "e(", "e["])
    assert words == {
        "A_b": "A_b", "a b": "a b", "Person": "person", "c (d)": "c [d]", "__": "__",
        "e(": "e[", "e[": "e['",
    }  # fmt: skip


def test_a_prompt_of_the_training_has_all_types_of_the_sentence_and_some_others() -> None:
    question = training_question(SENTENCES[0], SET, seed=0, most_types=10)
    assert {"PERSON", "Big_City"} < set(question.types)
    assert len(set(question.types)) == len(question.types) == 10
    alone = training_question(SENTENCES[0], SET, seed=0, most_types=1)
    assert set(alone.types) == {"PERSON", "Big_City"}


def test_types_depend_on_seed_and_sentence_and_not_on_the_place_in_the_file() -> None:
    turned = entity_set("turned", SENTENCES[::-1])
    for make in (training_question, evaluation_question):
        first = make(SENTENCES[0], SET, 0)
        assert make(SENTENCES[0], turned, 0) == first
        assert make(SENTENCES[0], SET, 1).types != first.types
        assert make(SENTENCES[1], SET, 0).types != first.types


def test_only_types_that_were_looked_for_are_asked() -> None:
    sentence = Sentence(("a",), (Span(0, 1, "x"),), asked=("x", "y"))
    of = entity_set("set", [sentence, *SENTENCES])
    assert set(training_question(sentence, of, 0).types) == {"x", "y"}
    assert set(evaluation_question(sentence, of, 0).types) == {"x", "y"}


def test_a_set_without_a_type() -> None:
    left = SET.without(["person"])
    assert "PERSON" not in left.types
    assert left.sentences[0].spans == (Span(2, 4, "Big_City"),)
