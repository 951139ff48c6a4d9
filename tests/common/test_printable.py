"""No terminal obeys text that comes from a file."""

import pytest

from regrow.common.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\rb\x9bc\x7f", r"a\rb\x9bc\x7f"),
        ("abc\u202edef\u2066\u200f", r"abc\u202edef\u2066\u200f"),
        ("half \ud800", r"half \ud800"),
        ("line\u2028line", r"line\u2028line"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\u6c34 \u00a0 \u3000 \U0001f469\u200d\U0001f680", None),  # a joined emoji
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)
