"""What makes two samples the same, and of one subject."""

from regrow.instructions.language import language_of
from regrow.instructions.sample import Message, Sample, plain


def of(**fields: str) -> Sample:
    return Sample("i", "s", "question answering", "en", fields)


def test_case_spaces_and_punctuation_do_not_count() -> None:
    assert (
        of(question="What is it?", answer="A River.").key
        == of(answer="a river", question="what  is it").key
    )
    assert of(question="a", answer="b").key != of(question="b", answer="a").key
    assert plain("ＡＢ，c_d") == "abcd"
    assert plain(" > = ") == ">="


def test_the_subject_is_the_question_or_the_passage() -> None:
    assert of(question="Q?", answer="a").subject == of(question="q", answer="b").subject
    assert of(context="C", question="x", answer="a").subject == "c"
    turns = (Message("system", "S"), Message("user", "Hi!"), Message("assistant", "x"))
    assert Sample("i", "s", "dialogue", "en", {}, turns).subject == "hi"


def test_languages() -> None:
    assert language_of(["A river of words."]) == "en"
    assert language_of(["河流 river"]) == "zh"
    assert language_of(["请介绍 SmolLM2"]) == "zh"
    assert language_of(["こんにちは、元気ですか"]) == "other"
    assert language_of(["12 + 3"]) == "other"
