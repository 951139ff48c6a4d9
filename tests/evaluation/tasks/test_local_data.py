from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.evaluation.tasks.local_data import DATASETS, name_of, read_splits
from tests.evaluation.tasks.files import COUNT, lines, table, write_all

SUBSETS = {
    "allenai/ai2_arc": "ARC-Easy", "cais/mmlu": "anatomy", "ceval/ceval-exam": "law",
    "haonan-li/cmmlu": "agronomy", "SaylorTwift/bbh": "snarks",
}  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
def test_all_questions_of_a_file_are_read(dataset: str, tmp_path: Path) -> None:
    splits = read_splits(dataset, SUBSETS.get(dataset), write_all(tmp_path))
    assert splits
    assert all(len(docs) == COUNT for docs in splits.values())
    assert all(set(doc) == set(docs[0]) for docs in splits.values() for doc in docs)


@pytest.mark.parametrize("dataset", ["ceval/ceval-exam", "haonan-li/cmmlu"])
def test_letters_may_be_small_and_have_spaces(dataset: str, tmp_path: Path) -> None:
    data = write_all(tmp_path)
    before = read_splits(dataset, SUBSETS[dataset], data)
    for file in data.rglob("*.csv"):
        rows = file.read_text(encoding="utf-8").splitlines()
        rows[1:] = [f"{row[:-1]} {row[-1].lower()}" for row in rows[1:]]
        file.write_text("\n".join(rows), encoding="utf-8")
    assert read_splits(dataset, SUBSETS[dataset], data) == before


def test_questions_have_the_fields_of_the_hub(tmp_path: Path) -> None:
    data = write_all(tmp_path)
    arc = read_splits("allenai/ai2_arc", "ARC-Easy", data)
    assert arc["test"][1] == {
        "question": "easy 1?",
        "choices": {"text": ["p", "q", "r"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }
    assert arc["validation"][0]["answerKey"] == "2"
    assert read_splits("baber/piqa", None, data)["validation"][3] == {
        "goal": "goal 3", "sol1": "a, b", "sol2": "c", "label": 1,
    }  # fmt: skip
    logiqa = read_splits("EleutherAI/logiqa", "logiqa", data)["test"][0]
    assert logiqa["options"] == ["one", "two", "three", "four"]
    assert (logiqa["label"], logiqa["question"]) == ("b", "Which?")
    mmlu = read_splits("cais/mmlu", "anatomy", data)["dev"][1]
    assert (mmlu["question"], mmlu["answer"], mmlu["choices"][3]) == ("dev bone 1?", 1, "four")
    boolq = read_splits("aps/super_glue/boolq", "boolq", data)["validation"]
    assert [doc["label"] for doc in boolq] == [0, 0, 1, 1, 1]


def test_a_subset_of_a_larger_data_set_has_a_name_of_its_own() -> None:
    assert name_of("aps/super_glue", "boolq") == "aps/super_glue/boolq"
    assert name_of("aps/super_glue", "cb") not in DATASETS
    assert name_of("allenai/ai2_arc", "ARC-Easy") == "allenai/ai2_arc"


def test_the_official_files_of_piqa_are_read_too(tmp_path: Path) -> None:
    rows = [{"goal": "g", "sol1": "a", "sol2": "b"}] * 2
    lines(tmp_path / "piqa/official/valid.jsonl", rows)
    labels = tmp_path / "piqa/official/valid-labels.lst"
    labels.write_text("0\n1\n")
    found = read_splits("baber/piqa", None, tmp_path)["validation"]
    assert [doc["label"] for doc in found] == [0, 1]
    labels.write_text("0\n")
    with pytest.raises(UserError, match="2 questions, but 1 labels"):
        read_splits("baber/piqa", None, tmp_path)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_file_that_is_missing_is_named(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"/[\w.-]+\.(csv|jsonl|json|txt): no such file, which holds"
    ):
        read_splits(dataset, SUBSETS.get(dataset), tmp_path)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data: .*/none: no such directory"):
        read_splits("baber/piqa", None, tmp_path / "none")


@pytest.mark.parametrize(
    ("dataset", "file", "content", "message"),
    [
        ("baber/piqa", "piqa/val.csv", "goal,sol1,label\n", "val.csv:1: no column 'sol2'"),
        ("baber/piqa", "piqa/val.csv", "goal,sol1,sol2,label\ng,a,b,2\n", "the answer is '2'"),
        ("baber/piqa", "piqa/val.csv", "goal,sol1,sol2,label\ng,a\n", "val.csv:2: fewer columns"),
        ("allenai/sciq", "sciq/sciq_test.jsonl", '{"question": "q"}', "sciq_test.jsonl:1: no key"),
        ("allenai/sciq", "sciq/sciq_test.jsonl", "{", "sciq_test.jsonl:1: not JSON"),
        ("cais/mmlu", "mmlu/test/anatomy_test.csv", "q,a,b,c,d,E\n", "the answer is 'E'"),
        ("cais/mmlu", "mmlu/test/anatomy_test.csv", "q,a,b,A\n", "row 1 has 4 columns"),
        ("EleutherAI/logiqa", "logiqa/Test.txt", "\na\nb\n", "2 lines with text"),
        ("allenai/ai2_arc", "arc/arc_easy.jsonl",
         '{"query": "q", "choices": ["a"], "gold": 1}', "the answer is 1"),
        ("SaylorTwift/bbh", "bbh/snarks.json", '{"examples": [{"input": "i"}]}', "example 1"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_its_place(
    dataset: str, file: str, content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_splits(dataset, SUBSETS.get(dataset), tmp_path)


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    row = {"question": "a\u2028b", "passage": "p", "answer": True}
    path = lines(tmp_path / "boolq/boolq_validation.jsonl", [row])
    path.write_text(path.read_text().replace("\\u2028", "\u2028"), encoding="utf-8")
    found = read_splits("aps/super_glue/boolq", None, tmp_path)
    assert found["validation"][0]["question"] == "a\u2028b"
    table(tmp_path / "mmlu/test/anatomy_test.csv", [("two\nlines", *"abcd", "A")])
    assert len(read_splits("cais/mmlu", "anatomy", tmp_path)["test"]) == 1
