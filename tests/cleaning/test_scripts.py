"""Words, characters and sentences in Chinese and English."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.cleaning.scripts import (
    count_han,
    count_spaceless,
    count_units,
    is_spaceless,
    sentences,
    units,
)


def test_counts() -> None:
    assert count_han("汉字 and 漢字𠮷〇々，。カ") == 7
    assert count_spaceless("汉字カな１") == 4
    assert units("Don't pay 3.14 or 1,000 for 中文字, e-mail_x!") == [
        "Don't", "pay", "3.14", "or", "1,000", "for", "中", "文", "字", "e-mail_x",
    ]  # fmt: skip


def test_scripts_with_and_without_spaces() -> None:
    assert is_spaceless("用 Python 编写程序")
    assert is_spaceless("日本語の文章です")
    assert is_spaceless("海南－０．６－３．５ 1 2 3")
    assert not is_spaceless("the word 道 in a text")
    assert not is_spaceless("")
    assert not is_spaceless("한국어 문장입니다")


@pytest.mark.parametrize(
    "expected",
    [
        ["Mr. Smith went to the U.S. in 1999. ", 'He said "No." ', "Then he left! ", "Why?"],
        ["他说：“好。”", "然后走了。", "真的？", "是的！！", "句子没有结束"],
        ["Version 3.14 is out. ", "See e.g. Fig. 2 there. ", "Ok"],
        ["1. The first item. ", "It ends\n", "2. The second\n\n", "End"],
        ["J. K. Rowling wrote it. ", "Wait... what? ", "Yes... ", "No."],
        ["English here.", "中文在此。", "Back again"],
    ],
)
def test_sentences(expected: list[str]) -> None:
    assert list(sentences("".join(expected))) == expected


@given(st.text())
def test_units_are_counted_as_they_are_listed(text: str) -> None:
    assert count_units(text) == len(units(text))


@given(st.text(st.sampled_from('aB1 .。!?！”")\n中…\t'), max_size=60))
def test_sentences_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text
    assert all(sentences(text))
