"""What makes two samples the same, and of one subject."""

import pytest

from regrow.instructions.language import language_of
from regrow.instructions.sample import Message, Sample, plain


def of(**fields: str | tuple[str, ...]) -> Sample:
    return Sample("i", "s", "question answering", "en", fields)


def test_case_spaces_and_punctuation_do_not_count() -> None:
    assert (
        of(question="What is it?", answer="A River.").key
        == of(answer="a river", question="what  is it").key
    )
    assert of(question="a", answer="b").key != of(question="b", answer="a").key
    assert plain("ＡＢ，c d。“e”") == "abcde"
    assert plain(" > = ") == ">="
    assert plain("?!") == "?!"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2+2", "2*2"), ("-1", "1"), ("3 > 2", "3 < 2"), ("2.5", "25"), (".5", "5"), ("5%", "5"),
        ("1:2", "12"), ("1, 2", "12"), ("x^2", "x2"), ("(a)b", "a(b)"), ("a/b", "ab"),
    ],
)  # fmt: skip
def test_signs_that_count(one: str, other: str) -> None:
    assert of(question=one, answer="a").key != of(question=other, answer="a").key
    assert of(question=one, answer="a").subject != of(question=other, answer="a").subject
    assert plain(f"Is it  {one} ?") == plain(f"is it {one}.")


def test_passage_and_rest() -> None:
    assert of(question="Q", answer="a").passage_and_rest is None
    assert of(context="C", question="Q", answer="a").passage_and_rest == ("C", "Q\na")
    assert of(context="C").passage_and_rest is None


def test_the_subject_is_the_question_or_the_passage() -> None:
    assert of(question="Q?", answer="a").subject == of(question="q", answer="b").subject
    assert of(context="C", question="x", answer="a").subject == "c"
    words = ("sea", "storm")
    assert of(keywords=words, answer="a").subject == of(keywords=words, answer="b").subject
    for others in (words[:1], ("seas", "torm")):
        assert of(keywords=words, answer="a").subject != of(keywords=others, answer="a").subject
    turns = (Message("system", "S"), Message("user", "Hi!"), Message("assistant", "x"))
    assert Sample("i", "s", "dialogue", "en", {}, turns).subject == "hi"


def test_both_ways_of_a_translation_are_one_subject() -> None:
    there = of(text="河流", translation="A river", text_language="zh", translation_language="en")
    back = of(text="A river.", translation="河流", text_language="en", translation_language="zh")
    assert there.subject == back.subject == "ariver"
    assert there.key != back.key


def test_languages() -> None:
    assert language_of(["A river of words."]) == "en"
    assert language_of(["河流 river"]) == "zh"
    assert language_of(["请介绍 SmolLM2"]) == "zh"
    assert language_of(["こんにちは、元気ですか"]) == "other"
    assert language_of(["12 + 3"]) == "other"
