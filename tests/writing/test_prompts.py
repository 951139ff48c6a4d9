import gzip
from pathlib import Path

import pytest

from regrow.writing.openings import BRIEF_OPENINGS, OPENINGS, brief_openings, openings
from regrow.writing.prompts import brief_starts, question_starts, read_prompts
from tests.tiny import write_text


@pytest.mark.parametrize("name", ["my.questions.txt", "Q.TXT", "asked.v2.txt.gz"])
def test_each_line_of_a_text_file_is_a_prompt(tmp_path: Path, name: str) -> None:
    """Whatever else its name holds."""
    lines = b"The river\n\n The stone \n"
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert read_prompts(tmp_path / name) == ["The river", "The stone"]
    write_text(tmp_path / "asked.txt.jsonl", ["The river\nis wide"])
    assert read_prompts(tmp_path / "asked.txt.jsonl") == ["The river\nis wide"]


@pytest.mark.parametrize("languages", [(), ("en",), ("zh", "en"), ("zh",), ("fr",), ("fr", "en")])
def test_each_opening_comes_with_and_without_the_template(languages: tuple[str, ...]) -> None:
    starts = question_starts(languages)
    words = openings(languages)
    assert [each.opening for each in starts] == words * 2
    assert all(each.prompt is None for each in starts)
    assert {(each.opening, each.is_plain) for each in starts} == {
        (each, plain) for each in words for plain in (False, True)
    }
    # Whatever the number of texts, about half of them are plain, and so are half of the free ones.
    plain = [each.is_plain for each in starts]
    free = [each.is_plain for each in starts if not each.opening]
    for some, apart in ((plain, 2 + len(plain) // 10), (free, 1)):
        assert all(abs(2 * sum(some[:count]) - count) <= apart for count in range(len(some)))


def test_openings_are_in_the_languages_that_are_wanted() -> None:
    assert {*openings()} == {*openings(["en"])} == {*OPENINGS["en"], ""}
    assert {*openings(["zh", "en"])} == {*OPENINGS["en"], *OPENINGS["zh"], ""}
    assert openings(["zh", "en", "zh"]) == openings(["en", "zh"])
    assert openings(["fr"]) == openings(["fr", "de"]) == [""]
    # A quarter is left to the model; few texts have both languages.
    words = openings(["en", "zh"])
    assert words.count("") == -(-len(words) // 4)
    assert {*words[:4]} & {*OPENINGS["en"]}
    assert {*words[:4]} & {*OPENINGS["zh"]}
    # Languages take turns, also if one has no openings.
    for language in ("zh", "fr"):
        words = openings(["en", language])
        english = [each for each in words if each in OPENINGS["en"]]
        assert len(english) == len(OPENINGS["en"])
        others = [each for each in words if each not in OPENINGS["en"]]
        assert len(others) == len(english) + len(words) // 4 + 1


@pytest.mark.parametrize("languages", [(), ("en",), ("zh", "en"), ("zh",), ("fr",), ("fr", "en")])
def test_brief_questions_have_openings_in_the_languages_that_are_wanted(
    languages: tuple[str, ...],
) -> None:
    starts = brief_starts(languages)
    wanted = {*(languages or ("en",))} & {*BRIEF_OPENINGS}
    assert {each.opening for each in starts} == {
        words for language in wanted for words in BRIEF_OPENINGS[language]
    }
    assert all(each.is_brief and each.prompt is None for each in starts)
    assert {(each.opening, each.is_plain) for each in starts} == {
        (words, plain) for words in brief_openings(languages) for plain in (False, True)
    }
    assert not any(each.is_brief for each in question_starts(languages))
    for language in wanted:
        first = [each.is_plain for each in starts if each.opening in BRIEF_OPENINGS[language]][:10]
        assert sum(first) == 5
    assert all(each.opening for each in starts)


def test_no_opening_is_there_twice() -> None:
    for table in (OPENINGS, BRIEF_OPENINGS):
        for words in table.values():
            assert len(words) == len({*words})
