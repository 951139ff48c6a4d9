"""Lines of code are told from lines of prose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.cleaning.code import is_code_line, lines_with_code, parts_with_code


@pytest.mark.parametrize(
    "line",
    [
        "import os", "from a.b import c as d", "def f(x: int) -> int:", "class A(B):",
        "    return x",
        "#include <stdio.h>", "public static void main(String[] args) {", "    }", "});",
        "if (x == 1) {", "if x == 1:", "for key in table:", "else:", "x = 5", "self.x[0] += y * 2",
        'printf("%d\\n", x);', "$ ls -l", ">>> f(2)", "<div class='a'>", "foo.bar(1, 2)",
        "let x = a => a + 1;", "break;", "SELECT a_b, c_d FROM t_x WHERE x_y = [1];",
    ],
)  # fmt: skip
def test_code(line: str) -> None:
    assert is_code_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "", "The river flows to the sea.", "If you want the following:", "for example:",
        "with these options:", "return to the main menu", "import duties on goods rose", "Heading",
        "- the first item;", "See [the page](http://example.com/a_b).", "| a | b | c |", "=====",
        "* * *", "# Title", "他说：“好。”", "价格为 x = 5 元。", "函数 f(x) 返回一个值",
        "class of 1999", "He paid $5 (or so).", "let us go then, you and I", "else we are lost",
        "what we do",
    ],
)  # fmt: skip
def test_prose(line: str) -> None:
    assert not is_code_line(line)


def test_fences_and_lines_between() -> None:
    text = "Text.\n```py\nwords in it\n```\nText.\nx = 1\n\ny = 2\nMore text here.\n~~~\nopen"
    assert [code for _, code in lines_with_code(text)] == [
        False, True, True, True, False, True, True, True, False, True, True,
    ]  # fmt: skip
    assert [code for _, code in parts_with_code(text)] == [False, True] * 3


@given(st.text(st.sampled_from("a =(){};`~\n\r\u2028.\ud800"), max_size=60))
def test_parts_and_lines_are_the_text(text: str) -> None:
    assert "".join(line for line, _ in lines_with_code(text)) == text
    assert "".join(part for part, _ in parts_with_code(text)) == text
