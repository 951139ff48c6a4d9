"""No terminal obeys text that comes from a file."""

import pytest

from regrow.common.printable import as_markdown, printable


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


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a *b* _c_ `d` [e](f) | ~g~ \\", r"a \*b\* \_c\_ \`d\` \[e\](f) \| \~g\~ \\"),
        ("<script>&lt;", r"\<script>&amp;lt;"),
        ("see https://x.org or a@b.c", "see https&#58;//x.org or a&#64;b.c"),
        ("see www.x.org", "see www&#46;x.org"),
        ("two\n# lines\x1b[0m", r"two # lines\\x1b\[0m"),
        ("SmolLM2-135M, 4 -> 3", None),
    ],
)
def test_markdown_shows_text_and_takes_none_of_it_as_markup(text: str, written: str | None) -> None:
    assert as_markdown(text) == (text if written is None else written)
