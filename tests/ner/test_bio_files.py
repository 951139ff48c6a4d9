"""Files of tokens and tags are read in both orders of columns, and refused with their line."""

from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.ner.bio_files import read_bio
from regrow.ner.sentences import Sentence, Span

PARIS = Sentence(("Paris", "is", "big"), (Span(0, 1, "LOC"),))


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "set.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "Paris\tB-LOC\nis\tO\nbig\tO\n",
        "B-LOC\tParis\nO\tis\nO\tbig\n",
        "\ufeffParis\tB-LOC\r\nis\tO\r\nbig\tO\r\n\r\n",
        "Paris  I-LOC\nis O\nbig O ",
        "-DOCSTART- -X- O O\n\nParis NNP I-NP S-LOC\nis VBZ I-VP O\nbig JJ I-NP O\n",
    ],
)
def test_both_orders_of_columns(tmp_path: Path, text: str) -> None:
    found = read_bio(_write(tmp_path, text), "set")
    assert found.sentences == (PARIS,)
    assert found.types == ("LOC",)


def test_sentences_end_at_empty_lines(tmp_path: Path) -> None:
    text = "a\tO\n\n\n \nB-side\tB-song\n\u2028\tO\n\n"
    found = read_bio(_write(tmp_path, text), "set")
    assert [each.tokens for each in found.sentences] == [("a",), ("B-side", "\u2028")]


def test_characters_with_a_position_digit(tmp_path: Path) -> None:
    text = "科0\tB-ORG.NAM\n技1\tI-ORG.NAM\n20\tO\n\n好0\tO\n"
    found = read_bio(_write(tmp_path, text), "set")
    assert found.sentences[0] == Sentence(("科", "技", "2"), (Span(0, 2, "ORG.NAM"),), joiner="")
    assert found.sentences[0].text == "科技2"


def test_words_that_end_in_a_digit_keep_it(tmp_path: Path) -> None:
    found = read_bio(_write(tmp_path, "F10\tB-key\n\nA0\tO\n"), "set")
    assert found.sentences[0].tokens == ("F10",)
    assert found.sentences[0].joiner == " "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\nb\tX-LOC\nc\tO\n", "line 2: 'X-LOC': not a tag"),
        ("a\tO\nlonely\nc\tO\n", "line 2: 'lonely': a token and its tag expected"),
        ("a\tO\n\n\tO\n", "line 3: '\\tO': a token and its tag expected"),
        ("O\tB-x\nB-side\tO\n", "both columns hold tags alone"),
        ("\n\n", "no line with a token and its tag"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_bio(path, "set")
    assert str(error.value).startswith(f"{path}: {message}")
