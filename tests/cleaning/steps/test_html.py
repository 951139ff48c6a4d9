"""Pages become their main text; documents that only mention HTML stay."""

import pytest

from regrow.cleaning.steps.html import Html
from tests.cleaning.steps.documents import reasons, text_after

PAGE = """<!DOCTYPE html>
<html><head><title>T</title><script>var x = 1;</script></head><body>
<nav><a href="/">Home</a> <a href="/b">Blog</a></nav>
<main><h1>Rivers</h1>
<p>A river is a stream of water that flows to a sea &amp; or to a lake, and it never stops.</p>
<p>河流是由一定区域内地表水和地下水补给，经常或间歇地沿着狭长凹地流动的水流。</p>
<pre>def f(x):
    return x</pre></main>
<footer>Copyright 2020 Example</footer></body></html>"""


def test_the_main_text_of_a_page() -> None:
    text = text_after(Html(), PAGE)
    assert text is not None
    assert text.split("\n\n") == [
        "Rivers",
        "A river is a stream of water that flows to a sea & or to a lake, and it never stops.",
        "河流是由一定区域内地表水和地下水补给，经常或间歇地沿着狭长凹地流动的水流。",
        "def f(x):\n    return x",
    ]
    assert reasons(Html(), PAGE) == {"markup": 1}


def test_menus_stay_by_choice() -> None:
    text = text_after(Html(main=False), PAGE)
    assert text is not None
    assert "Home" in text
    assert "Copyright 2020 Example" in text
    assert "var x" not in text


def test_a_page_without_text_is_dropped() -> None:
    empty = "<html><body><script>var x = 1;</script></body></html>"
    assert text_after(Html(), empty) is None
    assert reasons(Html(), empty) == {"no main text": 1}


@pytest.mark.parametrize("inside", ["<div>", "<div><p>a</p>", "<!-- </div> --><div>", "<section>"])
def test_a_page_that_is_nested_too_deeply_is_dropped(inside: str) -> None:
    page = "<html><body>" + inside * 500 + "text"
    assert text_after(Html(main=False), page) is not None
    page = "<html><body>" + inside * 600 + "text"
    assert text_after(Html(), page) is None
    assert reasons(Html(), page) == {"nested too deeply": 1}


def test_a_long_page_that_is_not_nested_stays() -> None:
    page = "<html><body>" + "<p>text<br><b>bold</b><li>item" * 600
    assert text_after(Html(main=False), page).count("bold") == 600  # type: ignore[union-attr]


def test_parts_of_pages() -> None:
    assert text_after(Html(), "<p>只有一段。</p>") == "只有一段。"
    assert text_after(Html(), "  <!-- note -->\n<div>some <b>words</b></div>") == "some words"


@pytest.mark.parametrize(
    "text",
    [
        "In HTML, <p> begins a paragraph and </p> ends it.",
        "# Title\n\nText with <b>bold</b> words.\n\n<div>part</div>",
        "<stdio.h> is a header, a < b and c > d",
        "<EMAIL> wrote to <PHONE>",
        "<?xml version='1.0'?><feed><entry>x</entry></feed>",
        "no markup",
        "",
    ],
)
def test_other_documents_stay(text: str) -> None:
    assert text_after(Html(), text) == text
    assert reasons(Html(), text) == {}
