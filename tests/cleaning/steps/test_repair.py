"""Broken characters are repaired; code, Chinese punctuation, emoji and full-width forms stay."""

import pytest

from regrow.cleaning.steps.repair import Repair
from tests.cleaning.steps.documents import reasons, text_after


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("ä¸\xadæ–‡æµ‹è¯•", "中文测试", "wrong encoding"),
        ("first line\nun cafÃ© trÃ¨s bon", "first line\nun café très bon", "wrong encoding"),
        ("â€œHiâ€\x9d", "“Hi”", "wrong encoding"),
        ("a\r\nb\rc\u2028d\fe", "a\nb\nc\nd\ne", "line ends"),
        ("a\x00b\x7fc\x1fd", "abcd", "control characters"),
        ("\x1b[1;31mred\x1b[0m", "red", "control characters"),
        ("N\x08NA\x08AME", "NAME", "control characters"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen", "zero-width characters"),
        ("in\u200dside 中\u200c文", "inside 中文", "zero-width characters"),
        ("left\u200e to \u202aright\u202c", "left to right", "zero-width characters"),
        ("cafe\u0301", "café", "not in normal form C"),
        ("a\n\n \n\n\nb\n", "a\n\n \nb\n", "blank lines"),
        ("\ud83d\ude00", "😀", "surrogates"),
        ("a\ud800b", "a\ufffdb", "surrogates"),
    ],
)
def test_repairs(before: str, after: str, reason: str) -> None:
    assert text_after(Repair(), before) == after
    assert list(reasons(Repair(), before)) == [reason]
    assert reasons(Repair(), after) == {}


@pytest.mark.parametrize(
    "text",
    [
        "“引号”，《书名》、「括号」……——！？；：（）",
        "全角ＡＢＣ　１２３！％",
        "👨\u200d👩\u200d👧 ❤\ufe0f 1\ufe0f\u20e3 👍🏽 🏳\ufe0f\u200d🌈",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag in tags
        "naïve café “curly” ‘quotes’ – — ½ ﬁ ㎏ &amp; &lt;",
        "می\u200cخواهم \u200fשלום",
        "葛\U000e0100城",
        "tiếng Việt, Ångström, Übergröße, привет, ไทย, हिन्दी क्\u200dष",
        "def f():\n    return 1\n\n\nclass C:\n\tpass\n",
        "print('cafÃ©')\n",
        "```\nun cafÃ© trÃ¨s bon\n```",
        "line with two spaces at its end  \nnext",
    ],
)
def test_good_text_stays(text: str) -> None:
    assert text_after(Repair(), text) == text
    assert reasons(Repair(), text) == {}


def test_what_a_repair_lays_bare_is_repaired_too() -> None:
    assert text_after(Repair(), "Ã\u200b©") == "é"
    assert reasons(Repair(), "Ã\u200b©") == {"zero-width characters": 1, "wrong encoding": 1}


def test_blank_lines_is_a_setting() -> None:
    assert text_after(Repair(blank_lines=0), "a\n\n\nb\nc") == "a\nb\nc"
    assert text_after(Repair(blank_lines=1), "a\n\n\n\nb\n\nc") == "a\n\nb\n\nc"


def test_a_document_of_nothing_else_is_dropped() -> None:
    assert text_after(Repair(), "\x00\x00") is None
    assert reasons(Repair(), "\x00\x00") == {"control characters": 2, "nothing left": 1}
