"""Which template, options and examples a sample gets."""

from collections.abc import Sequence

import pytest

from regrow.instructions.config import FewShot
from regrow.instructions.rendering import Pool, Renderer
from regrow.instructions.sample import Instruction, Message, Sample, Value, number_of
from regrow.instructions.template import own_templates

SEED = 3
NONE = FewShot(share=0.0)


def sample(number: int, task: str = "dialogue", language: str = "en", **fields: Value) -> Sample:
    given = fields or {"message": f"Question {number}?", "answer": f"Answer {number}"}
    return Sample(f"s/f#{number}", "s", task, language, given)


def draw(each: Sample) -> int:
    return number_of(SEED, "draw", each.key)


def pool_of(samples: Sequence[Sample]) -> Pool:
    pool = Pool()
    for each in samples:
        pool.add(each, draw(each), heldout=False)
    return pool


def made(each: Sample, pool: Pool, few_shot: FewShot = NONE) -> list[Instruction]:
    renderer = Renderer(own_templates(), pool, few_shot, SEED)
    return list(renderer.instructions(each, draw(each)))


def test_ready_conversations_stay() -> None:
    turns = (Message("user", "{{ x }}"), Message("assistant", "b"))
    (found,) = made(Sample("a", "s", "dialogue", "other", {}, turns), Pool())
    assert (found.messages, found.template, found.language) == (turns, "", "other")


def test_the_template_depends_on_the_sample_alone() -> None:
    samples = [sample(number) for number in range(40)]
    pool = pool_of(samples)
    once = [made(each, pool)[0] for each in samples]
    again = [made(each, pool_of(samples[::-1]))[0] for each in samples[::-1]][::-1]
    assert [each.messages for each in once] == [each.messages for each in again]
    assert len({each.template for each in once}) == 3  # all that need no history
    assert {each.messages[1].content for each in once} == {f"Answer {n}" for n in range(40)}


def test_no_template_for_a_language() -> None:
    assert made(sample(1, language="other"), Pool()) == []


def test_translations_are_asked_for_in_both_languages_and_directions() -> None:
    samples = [
        sample(n, "translation", text=f"River {n}", translation=f"河流{n}", text_language="en",
               translation_language="zh")
        for n in range(60)
    ]  # fmt: skip
    found = [made(each, Pool())[0] for each in samples]
    seen = {(each.language, each.messages[1].content[0]) for each in found}
    assert seen == {("en", "R"), ("en", "河"), ("zh", "R"), ("zh", "河")}


def test_questions_are_also_turned_around() -> None:
    samples = [
        sample(
            n, "reading comprehension", context=f"Passage {n}.", question=f"What {n}?", answer="x"
        )
        for n in range(60)
    ]
    found = [made(each, Pool())[0] for each in samples]
    turned = [each for each in found if each.task == "question generation"]
    assert turned
    assert all(each.messages[1].content.startswith("What") for each in turned)


def test_labels_of_a_source_are_its_options() -> None:
    samples = [
        sample(n, "text classification", text=f"Text {n}", answer="abcdefghijklmnop"[n % 16])
        for n in range(64)
    ]
    pool = pool_of(samples)
    for each in samples:
        options = pool.options(each, draw(each), SEED)
        assert options is not None
        assert len(options) == 12
        assert each.fields["answer"] in options
    positions = {
        (pool.options(each, draw(each), SEED) or ()).index(str(each.fields["answer"]))
        for each in samples
    }
    assert len(positions) > 6
    long = pool_of([sample(n, "text classification", text="t", answer="x" * 41) for n in range(2)])
    assert long.options(samples[0], 0, SEED) is None


def test_given_options_keep_their_order_where_it_means_something() -> None:
    asked = sample(1, "question answering", question="Q", answer="b", options=("a", "b", "all"))
    assert Pool().options(asked, 5, SEED) == ("a", "b", "all")
    compared = sample(
        1, "text matching", sentence1="a", sentence2="b", answer="y", options=("y", "n")
    )
    orders = {Pool().options(compared, number, SEED) for number in range(20)}
    assert orders == {("y", "n"), ("n", "y")}


def test_examples_are_of_other_subjects_and_become_fewer() -> None:
    samples = [sample(number) for number in range(30)]
    twin = sample(99, message="question 7", answer="Another")  # the subject of number 7
    pool = pool_of([*samples, twin])
    found = made(samples[7], pool, FewShot(share=1.0, most=3))
    assert [each.shots for each in found] == [*range(found[0].shots, -1, -1)]
    assert found[0].shots >= 1
    for each in found:
        prompt = each.messages[0].content
        assert prompt.count("Example ") == each.shots
        assert prompt.count("Question 7?") == 1
        assert "Another" not in prompt
        assert "Answer 7" not in prompt
        assert each.messages[1].content == "Answer 7"


def test_held_out_samples_are_no_examples() -> None:
    pool = Pool()
    for number in range(5):
        each = sample(number)
        pool.add(each, draw(each), heldout=number > 0)
    assert made(sample(9), pool, FewShot(share=1.0))[0].messages[0].content.count("Question") == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_with_examples(share: float) -> None:
    samples = [sample(number) for number in range(300)]
    pool = pool_of(samples)
    few = FewShot(share=share, most=1)
    found = sum(made(each, pool, few)[0].shots for each in samples) / 300
    assert abs(found - share) < 0.08
