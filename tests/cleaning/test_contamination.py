"""Questions of benchmarks are found in documents, and short texts are not looked for."""

import gzip
import json
from pathlib import Path

import pytest

from regrow.cleaning.config import Contamination
from regrow.cleaning.contamination import Hit, QuestionIndex, read_questions
from regrow.cleaning.word_hashes import normalised, word_pieces
from regrow.common.errors import UserError

WORDS = "Which of these metals is liquid at the temperature of a warm room in the summer of a year"
CHINESE = "下列金属中哪一种在常温下呈液态并且可以用来制作温度计请选择正确的选项"
SHORT = "下列金属中哪一种在常温下呈液态"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"q": WORDS, "options": ["lead", "mercury"]}) + "\n\n" + json.dumps([SHORT])
    )
    (tmp_path / "b.json").write_text(json.dumps([{"x": [CHINESE]}, {"y": 3}]))
    (tmp_path / "c.csv").write_text('id,question\n1,"one two three, four five\nsix seven eight"\n')
    (tmp_path / "d.tsv").write_text("a\tthe second table asks for eight words too\n")
    (tmp_path / "e.txt").write_text(
        "1 2 3 4 5 6 7 8 9 10 11 12\nnine small words stand on this line of text\n"
    )
    (tmp_path / "f.json").write_text(
        json.dumps({"a": "lines of objects under another suffix are read too"}) + "\n{}"
    )
    return tmp_path


@pytest.fixture
def index(directory: Path) -> QuestionIndex:
    return read_questions(Contamination.model_validate({"against": directory}))


def find(index: QuestionIndex, text: str) -> Hit | None:
    return index.find("d", word_pieces(normalised(text)))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"before {WORDS} after", "a.jsonl:1"),
        (" ".join(WORDS.upper().split()[3:16]) + "!", "a.jsonl:1"),
        (" ".join(WORDS.split()[:12]), None),
        (WORDS.replace("warm", "cold").replace("liquid", "solid"), None),
        (f"题目：{SHORT}？", "a.jsonl:3"),
        (CHINESE[5:31], "b.json:1"),
        (CHINESE[:14], None),
        ("One, two three four FIVE six seven eight.", "c.csv:2"),
        ("one two three four five six seven nine", None),
        ("x the second table asks for eight words too", "d.tsv:1"),
        ("nine small words stand on this line of text", "e.txt:2"),
        ("1 2 3 4 5 6 7 8 9 10 11 12", None),
        ("lines of objects under another suffix are read too", "f.json:1"),
        ("lead mercury", None),
        ("", None),
    ],
)
def test_what_is_found(directory: Path, index: QuestionIndex, text: str, where: str | None) -> None:
    hit = find(index, text)
    assert (hit and hit.question) == (where and f"{directory}/{where}")


def test_the_first_question_is_named_with_its_beginning(index: QuestionIndex) -> None:
    hit = find(index, f"nine small words stand on this line of text. {WORDS}")
    assert hit is not None
    assert hit.question.endswith("a.jsonl:1")
    assert hit.text == WORDS[:80]
    assert hit.ngrams == 1 + len(WORDS.split()) - 13 + 1
    assert index.too_short > 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\nx', "line 2 is not JSON"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.jsonl", "9" * 5_000, "line 1 is not JSON"),
        ("a.json", "9" * 5_000, "line 1 is not JSON"),
        ("a.json", '\ufeff{"a": 1}', "no text of at least 8 words"),
        ("a.csv", 'a,"b\0', "no text of at least"),
        ("a.bin", "x", "unknown kind of file"),
        ("a.txt", "short", "no text of at least 8 words"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_questions(Contamination.model_validate({"against": tmp_path / name}))


def test_files_of_a_directory(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": [1, 2], "q": ["x", WORDS]}), tmp_path / "a.parquet")
    lines = json.dumps({"q": CHINESE}) + "\n"
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("README.txt", ".hidden.txt", "c.bin"):
        (tmp_path / name).write_text("nine small words stand on this line of text")
    index = read_questions(Contamination.model_validate({"against": tmp_path}))
    assert [each.where for each in index.questions] == [
        f"{tmp_path}/a.parquet:2", f"{tmp_path}/b.jsonl.gz:1"
    ]  # fmt: skip
    assert index.summary == (
        "Benchmark questions: 2 files read, 2 texts looked for, 1 too short to be looked for; "
        "2 other files not read."
    )
    one = Contamination.model_validate({"against": tmp_path / "[a-b].jsonl.g?"})
    assert read_questions(one).questions[0].where == f"{tmp_path}/b.jsonl.gz:1"
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-9])
    with pytest.raises(UserError, match="incomplete gzip"):
        read_questions(one)
