"""The questions that benchmarks/questions.py asks."""

import re
from types import ModuleType

import pytest

from tests.benchmark_scripts import benchmark_script


@pytest.fixture(scope="module")
def asked() -> ModuleType:
    return benchmark_script("questions")


def test_no_answer_is_right_because_it_says_the_question_again(asked: ModuleType) -> None:
    lists = asked.questions()
    assert [len(each) for each in lists] == [20, 150]
    for each in lists:
        for question, pattern in each.items():
            re.compile(pattern)
            assert not asked.holds(pattern, question), question
    assert not {*lists[0]} & {*lists[1]}


@pytest.mark.parametrize(
    ("pattern", "answer", "is_right"),
    [
        ("four|4", "It is 4.", True),
        ("four|4", "It is 14.", False),
        ("dogs?", "Dogs bark.", True),
        ("Paris", "Comparisons", False),
    ],
)
def test_an_answer_is_right_if_it_holds_the_word(
    asked: ModuleType, pattern: str, answer: str, is_right: bool
) -> None:
    assert asked.holds(pattern, answer) is is_right
