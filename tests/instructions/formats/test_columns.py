"""Rows by a map of columns, and tables by their header."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from regrow.common.errors import UserError
from regrow.instructions.config import InstructionSource
from regrow.instructions.reading import Reading, read_source
from regrow.instructions.sample import Sample


def samples(tmp_path: Path, text: str, **source: Any) -> tuple[list[Sample], Reading]:
    path = tmp_path / "a.dat"
    path.write_text(text, encoding="utf-8")
    reading = Reading()
    return list(read_source(InstructionSource(path=path, **source), reading, seed=0)), reading


def test_numbers_of_columns(tmp_path: Path) -> None:
    found, reading = samples(
        tmp_path, "a\tb\nc\t\n", task="dialogue", columns={"message": 1, "answer": 2}
    )
    assert [dict(each.fields) for each in found] == [{"message": "a", "answer": "b"}]
    assert reading.broken == {"answer: empty": 1}


def test_names_of_columns_and_several_for_the_options(tmp_path: Path) -> None:
    found, _ = samples(
        tmp_path, "goal,one,two,label\nEat,fast,slow,1\nRun,fast,slow,A\nGo,x,y,y\n",
        task="question answering",
        columns={"question": "goal", "options": ["one", "two"], "answer": "label"},
    )  # fmt: skip
    assert [(each.fields["options"], each.fields["answer"]) for each in found] == [
        (("fast", "slow"), "slow"), (("fast", "slow"), "fast"), (("x", "y"), "y"),
    ]  # fmt: skip


CHOICES: dict[str, Any] = {
    "task": "question answering",
    "columns": {"question": "q", "options": "choices", "answer": "a"},
}


def chosen(*answers: Any) -> str:
    rows = [{"q": f"Q {a}", "choices": ["2", "3", "1", "0"], "a": a} for a in answers]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_number_that_is_no_text_is_always_that_of_an_option(tmp_path: Path) -> None:
    found, reading = samples(tmp_path, chosen(2, 0, "2", "D", 9, -1), **CHOICES)
    assert [each.fields["answer"] for each in found] == ["1", "2", "2", "0"]
    assert reading.broken == {"answer: none of the options, which are numbered from 0": 2}


def test_options_are_texts(tmp_path: Path) -> None:
    rows = [
        {"q": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "a": "A"},
        {"q": ["Q"], "choices": ["x", "y"], "a": "A"},
        {"q": "Q", "choices": ["x", "y"], "a": "A"},
    ]
    found, reading = samples(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), **CHOICES)
    assert [each.fields["answer"] for each in found] == ["x"]
    assert reading.broken == {
        "options: an object; give a column that holds a list of texts": 1, "question: no text": 1,
    }  # fmt: skip


@pytest.mark.parametrize("table", [False, True])
def test_numbers_from_one_are_refused(tmp_path: Path, table: bool) -> None:
    text = chosen(2, 1, 4)
    if table:
        text = "q,choices,a\nWhich?,x;y,1\nWhat?,x;y,2\n"
    with pytest.raises(UserError, match=r"a\.dat: the answers are numbers from 1 to \d, and opt"):
        samples(tmp_path, text, **CHOICES)
    if not table:
        assert len(samples(tmp_path, chosen(2, 0, 4), **CHOICES)[0]) == 2


def test_what_is_no_number(tmp_path: Path) -> None:
    text = '{"q": "a", "y": NaN}\n{"q": "b", "y": 2.5}\n'
    found, reading = samples(
        tmp_path, text, task="mathematics", columns={"question": "q", "answer": "y"}
    )
    assert [each.fields["answer"] for each in found] == ["2.5"]
    assert reading.broken == {"answer: nan is no number": 1}


def test_a_column_that_the_first_record_lacks(tmp_path: Path) -> None:
    text = '{"q": "a"}\n{"q": "b", "y": "c"}\n'
    found, reading = samples(
        tmp_path, text, task="dialogue", columns={"message": "q", "answer": "y"}
    )
    assert len(found) == 1
    assert reading.broken == {"answer: empty": 1}
    found, reading = samples(
        tmp_path, "a\tb\na\tb\tc\n", task="dialogue", columns={"message": 1, "answer": 3}
    )
    assert len(found) == 1
    assert reading.broken == {"answer: empty": 1}


def test_labels_become_words_and_options(tmp_path: Path) -> None:
    found, reading = samples(
        tmp_path, '{"q": "a", "y": true}\n{"q": "b", "y": 2}\n', task="sentiment analysis",
        columns={"text": "q", "answer": "y"}, labels={"true": "good", "false": "bad"},
    )  # fmt: skip
    assert found[0].fields["answer"] == "good"
    assert found[0].fields["options"] == ("good", "bad")
    assert reading.broken == {"answer: no label '2'": 1}


def test_labels_of_a_format_change_answers_and_options_alone(tmp_path: Path) -> None:
    rows = [
        {"sentence": "\u6b63\u9762", "label": "Positive"}, {"sentence": "b", "label": "Negative"}
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (first, _), reading = samples(tmp_path, text, labels={"\u6b63\u9762": "good"})
    assert first.fields["text"] == "\u6b63\u9762"
    assert first.fields["answer"] == "good"
    assert first.fields["options"] == ("good", "\u8d1f\u9762")
    assert reading.notes == [
        "1 answers are none of the labels, such as '\u8d1f\u9762'; they stay as they are"
    ]


@pytest.mark.parametrize(
    "text",
    ['{"prompt": "a", "completion": "b"}\n', '{"sentence": "\u4e59", "label": "Negative"}\n',
     "Paris\tB-city\nis\tO\n\nbig\tO\nriver\tO\n"],
)  # fmt: skip
def test_labels_without_effect_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="a: labels: no sample has one of them as its answer"):
        samples(tmp_path, text, labels={"b": "c"})


def test_a_table_whose_header_names_a_format(tmp_path: Path) -> None:
    found, reading = samples(tmp_path, "instruction,input,output\nSay,,it\nx,y\n")
    assert found[0].messages[1].content == "it"
    assert reading.broken == {"another number of columns than the header": 1}


def test_the_first_row_of_a_chinese_table_may_have_english_words(tmp_path: Path) -> None:
    rows = "sentence1\tsentence2\tlabel\nOK\tfine\t1\n\u4f60\u597d\t\u597d\u7684\t1\n"
    found, reading = samples(tmp_path, rows)
    assert len(found) == 2
    assert [*reading.formats.values()] == ["bustm: keys sentence1, sentence2, label"]


def test_flan(tmp_path: Path) -> None:
    text = (
        "Is it?\tYes\tFacts.\n"
        "Which?\\nOptions:\\n- (A) one\\n- (B) two\t(B)\tBecause.\n"
        "Which?\\nOptions:\\n(A) one\\n(B) one\t(B)\tBecause.\n"
        "Which?\\nOptions:\\n(A) one\\n(B) two\t(C)\tBecause.\n"
        "two\tcolumns\n"
    )
    found, reading = samples(tmp_path, text, format="flan")
    assert [dict(each.fields) for each in found] == [
        {"question": "Is it?", "answer": "yes", "options": ("yes", "no"), "rationale": "Facts."},
        {"question": "Which?", "answer": "two", "options": ("one", "two"), "rationale": "Because."},
    ]
    assert reading.broken == {
        "question: equal options": 1, "answer: no letter of an option": 1,
        "2 columns in place of question, answer and rationale": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("a\tb\n", {}, "TSV with 2 columns and no known names; give `columns` and `task`"),
        ("a,b\nc,d\n", {"task": "dialogue", "columns": {"message": "x"}},
         "no column 'x'; its columns are a, b"),
        ("sentence1\tsentence2\tlabel\nIt is.\tIt was.\t1\n", {},
         "TSV with the columns sentence1, sentence2, label, which are no known names; give `col"),
        ("a\tb\n", {"task": "dialogue", "columns": {"message": 3}}, "no column 3; it has 2 col"),
        ("Some words.\n", {}, "plain text; give JSON, TSV, CSV or Parquet, or name its"),
        ("Is it?\tb\tc\n", {"task": "translation"}, "task translation has no field answer"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(
    tmp_path: Path, text: str, source: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        samples(tmp_path, text, **source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"columns": {"text": 1}}, "columns: give the task too"),
        ({"task": "cloze", "columns": {"question": 1}}, "cloze has the fields text, answer"),
        ({"task": "cloze", "columns": {"text": [1, 2]}}, "one column is wanted"),
        ({"task": "qestion answering"}, "did you mean question answering"),
        ({"format": "alpacas"}, "no format 'alpacas'; give one of alpaca"),
    ],
)
def test_maps_that_are_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InstructionSource(path="a", **source)
