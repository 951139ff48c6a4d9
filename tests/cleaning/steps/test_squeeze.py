"""Runs of repeated characters are shortened in prose, and nowhere else."""

import pytest

from regrow.cleaning.steps.squeeze import Squeeze
from tests.cleaning.steps.documents import reasons, text_after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Great!!!!!!!!!", "Great!!!!"),
        ("哈哈哈哈哈哈哈，真好", "哈哈哈哈，真好"),
        ("hahahahahahaha yes", "hahahaha yes"),
        ("什么？！？！？！？！？！？！", "什么？！？！？！？！"),
        ("Chapter 1 .............. 5", "Chapter 1 .... 5"),
        ("soooooo good", "soooo good"),
        ("第一章…………………………一", "第一章…………一"),
    ],
)
def test_runs_in_prose_are_shortened(before: str, after: str) -> None:
    assert text_after(Squeeze(), before) == after
    assert reasons(Squeeze(), before) == {"repeated characters": 1}
    assert text_after(Squeeze(), after) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("他笑了哈哈哈哈哈哈哈哈哈哈（第3次），哈哈哈哈哈哈哈哈哈",
         "他笑了哈哈哈哈（第3次），哈哈哈哈"),
        ("价格100000000元哈哈哈哈哈哈哈哈哈哈，真好", "价格100000000元哈哈哈哈，真好"),
        ("2024年好！！！！！！！！", "2024年好！！！！"),
        ("ＩＤ：１００００００００[哈哈哈哈哈哈]", "ＩＤ：１００００００００[哈哈哈哈]"),
    ],
)  # fmt: skip
def test_a_number_in_a_chinese_line_keeps_only_itself(before: str, after: str) -> None:
    assert text_after(Squeeze(), before) == after


@pytest.mark.parametrize(
    "text",
    [
        "It costs 1000000 yuan, or 1.0000000.",
        "一共10000000元，编号000000012。",
        "0xffffffff and ffffffff-0000",
        "See http://wwwwww.example.com/aaaaaaa",
        "/home/xxxxxxxx/file and C:\\aaaaaaaa",
        "Heading\n=======\n\n-------\n\n* * * * * * *\n\n+------+------+\n|------|:----:|",
        "┌──────┬──────┐",
        "```\nx = aaaaaaaaaaaa!!!!!!!!\n```",
        "value = '!!!!!!!!!!'\nprint(value)\n",
        "a          b\n\n\n\n\n\n\t\t\t\t\t\tc",
        "Schifffahrt, jäääär, ……",
        "very very very very very good",
    ],
)
def test_what_is_no_prose_stays(text: str) -> None:
    assert text_after(Squeeze(), text) == text
    assert reasons(Squeeze(), text) == {}


def test_settings() -> None:
    assert text_after(Squeeze(longest=2), "哈哈哈哈 abababab") == "哈哈 abab"
    assert text_after(Squeeze(unit=1), "aaaaaaa abababababab") == "aaaa abababababab"
    assert reasons(Squeeze(), "aaaaaa bbbbbb") == {"repeated characters": 2}
