"""Short lines and sentences are dropped, by words in English and by characters in Chinese."""

from regrow.cleaning.steps.sentences import Sentences
from tests.cleaning.steps.documents import reasons, text_after

ENGLISH = "This is a sentence of more than ten words, so it stays."
CHINESE = "这是一个足够长的句子，应该保留下来，不会丢掉。"


def test_by_line() -> None:
    text = f"Home\n{ENGLISH} Short one.\n菜单\n{CHINESE}短句。\n\nMore\n"
    assert text_after(Sentences(), text) == f"{ENGLISH} Short one.\n{CHINESE}短句。\n\n"
    assert reasons(Sentences(), text) == {"short line": 3}


def test_by_sentence() -> None:
    text = f"Home\nYes. {ENGLISH} Short one.\n菜单\n短句。{CHINESE}短句！\n\nEnd"
    assert text_after(Sentences(by="sentence"), text) == f"{ENGLISH}\n{CHINESE}\n\n"
    assert reasons(Sentences(by="sentence"), text) == {"short sentence": 7}


def test_the_bounds_are_exact() -> None:
    assert text_after(Sentences(), "one two three four five six seven eight nine ten") is not None
    assert text_after(Sentences(), "one two three four five six seven eight nine") is None
    assert text_after(Sentences(), "一二三四五六七八九十，甲乙丙丁戊。") is not None
    assert text_after(Sentences(), "一二三四五六七八九十，甲乙丙丁。") is None
    assert (
        text_after(Sentences(words=2, characters=3), "one two\none\n一二三\n一二")
        == "one two\n一二三\n"
    )


def test_code_stays() -> None:
    text = f"{ENGLISH}\n\n```\nx\n```\nimport os\n"
    assert text_after(Sentences(), text) == text


def test_a_document_of_short_lines_is_dropped() -> None:
    assert reasons(Sentences(), "Home\nBlog\n") == {"short line": 2, "nothing left": 1}
