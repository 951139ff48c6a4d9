"""Read the questions of known data sets from local files, without a network.

The fields of a question are those of the data set on the Hugging Face hub, which the tasks of
lm-eval read. So the prompts are lm-eval's own, and scores can be compared with the literature.

The files lie in one directory for each data set, in the forms in which their authors give them out:

| data set | files |
|---|---|
| PIQA | `piqa/val.csv`, or `piqa/valid.jsonl` and `piqa/valid-labels.lst`; `piqa/train*.csv` |
| ARC | `arc/arc_easy.jsonl`, `arc/arc_challenge.jsonl`, `arc/ARC-*-validation.jsonl` |
| SciQ, BoolQ | `sciq/sciq_validation.jsonl`, `boolq/boolq_validation.jsonl`; `_train`, `_test` |
| LogiQA | `logiqa/Test.txt`, `logiqa/Eval.txt`, `logiqa/Train.txt` |
| MMLU | `mmlu/test/SUBJECT_test.csv`, `mmlu/val/...`, `mmlu/dev/...` |
| C-Eval | `ceval/val/SUBJECT_val.csv`, `ceval/dev/...` |
| CMMLU | `cmmlu/test/SUBJECT.csv`, `cmmlu/dev/...` |
| BBH | `bbh/TASK.json` |
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.files import parse_json_object, read_json_object, read_text

Question = dict[str, Any]
Splits = dict[str, list[Question]]
"""Questions by the name of their split: `train`, `validation`, `test`, `dev`, `val`."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class LocalData:
    """A data set that can be read from local files.

    Attributes:
        name: Its name. Its directory has this name in lower case, without the hyphen.
        read: (directory of the data set, subset) -> splits. Missing splits are left out.
        wanted: (subset) -> the file with the questions that are tested, for the message if no file
            is there.
        tested: The splits whose questions can be tested; one of them must be there.
    """

    name: str
    read: Callable[[Path, str], Splits]
    wanted: Callable[[str], str]
    tested: tuple[str, ...]


def read_splits(dataset: str, subset: str | None, data: Path) -> Splits:
    """The questions of a data set.

    Args:
        dataset: Its name by `name_of`, one of `DATASETS`.
        subset: The name of its subset on the hub (`ARC-Easy`, `anatomy`), or None.
        data: The directory that holds a directory for each data set.

    Raises:
        UserError: `data` is no directory, the file with the tested questions is missing, or a file
            does not have the form of the data set.
    """
    if not data.is_dir():
        raise UserError(f"{data}: no such directory", key="data")
    known = DATASETS[dataset]
    directory = data / known.name.lower().replace("-", "")
    found = {name: rows for name, rows in known.read(directory, subset or "").items() if rows}
    if not any(name in found for name in known.tested):
        raise UserError(
            f"{directory / known.wanted(subset or '')}: no such file, which holds the questions of "
            f"{known.name}"
        )
    return found


def name_of(dataset: str | None, subset: str | None) -> str:
    """The name of a data set in `DATASETS`, from dataset_path and dataset_name of a task."""
    together = f"{dataset}/{subset}"
    return together if together in DATASETS else str(dataset)


# Files


def _first(directory: Path, *patterns: str) -> Path | None:
    """The first file that matches one of the patterns, in their order; None if there is none."""
    for pattern in patterns:
        if found := sorted(path for path in directory.glob(pattern) if path.is_file()):
            return found[0]
    return None


def _json_lines(path: Path | None, *keys: str) -> list[Question]:
    """The objects of a JSONL file, each with these keys; none without a file."""
    if path is None:
        return []
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            row = parse_json_object(line.encode(), f"{path}:{number}")
            _check_keys(row, keys, f"{path}:{number}")
            rows.append(row)
    return rows


def _csv_rows(path: Path | None, *columns: str) -> list[Question]:
    """The rows of a CSV file whose first line names at least these columns."""
    if path is None:
        return []
    reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}:1: no column {missing[0]!r}; wanted are {', '.join(columns)}")
    rows = []
    for row in _checked(reader, path):
        if any(row[name] is None for name in columns):
            raise UserError(f"{path}:{reader.line_num}: fewer columns than the first line")
        rows.append(dict(row))
    return rows


def _checked(reader: Iterable[Any], path: Path) -> Iterator[Any]:
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{path}: no CSV file: {error}") from None


def _check_keys(row: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in row:
            raise UserError(f"{where}: no key {key!r}; wanted are {', '.join(keys)}")


def _number(value: Any, below: int, where: str) -> int:
    """The index of the right option. Raises UserError if there is no such option."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < below:
        raise UserError(
            f"{where}: the answer is {value!r}; a number from 0 to {below - 1} is wanted"
        )
    return number


def _letter(value: str, of: str, where: str) -> int:
    """The index of the right option from its letter."""
    letter = value.strip().upper()
    if len(letter) != 1 or letter not in of:
        raise UserError(f"{where}: the answer is {value!r}; one of {', '.join(of)} is wanted")
    return of.index(letter)


# Data sets


def _piqa(directory: Path, _: str) -> Splits:
    columns = ("goal", "sol1", "sol2")
    splits: Splits = {}
    for name, table, lines in (
        ("train", "train*.csv", "train.jsonl"), ("validation", "val*.csv", "valid.jsonl"),
    ):  # fmt: skip
        rows, path = [], _first(directory, table)
        if path is not None:
            rows = _csv_rows(path, *columns, "label")
            labels = [row["label"] for row in rows]
        elif (path := _first(directory, lines, f"official/{lines}")) is not None:
            rows = _json_lines(path, *columns)
            labels = read_text(path.with_name(f"{path.stem}-labels.lst")).split()
            if len(labels) != len(rows):
                raise UserError(f"{path}: {len(rows)} questions, but {len(labels)} labels")
        splits[name] = [
            {
                **{key: row[key] for key in columns},
                "label": _number(label, 2, f"{path}: {row['goal'][:40]}"),
            }
            for row, label in zip(rows, labels if rows else [], strict=True)
        ]
    return splits


_ARC_FILES = {"ARC-Easy": "arc_easy", "ARC-Challenge": "arc_challenge"}


def _arc(directory: Path, subset: str) -> Splits:
    splits: Splits = {}
    for split in ("train", "validation", "test"):
        path = _first(directory, f"{subset}-{split}.jsonl", f"{subset}-{split.title()}.jsonl")
        rows = _json_lines(path, "question", "choices", "answerKey")
        for row in rows:
            _check_keys(row["choices"], ("text", "label"), f"{path}: {row['question'][:40]}")
        splits[split] = rows
    if not splits["test"] and subset in _ARC_FILES:
        path = _first(directory, f"{_ARC_FILES[subset]}.jsonl")
        splits["test"] = [
            _arc_question(row, str(path)) for row in _json_lines(path, "query", "choices", "gold")
        ]
    return splits


def _arc_question(row: Question, where: str) -> Question:
    """A question in the form of the hub, from one with a prompt and the number of the answer."""
    count = len(row["choices"])
    labels = [*_LETTERS[:count], *map(str, range(len(_LETTERS) + 1, count + 1))]
    answer = _number(row["gold"], len(labels), f"{where}: {row['query'][:40]}")
    return {
        "question": row["query"].removeprefix("Question: "),
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[answer],
    }


_SCIQ = ("question", "distractor1", "distractor2", "distractor3", "correct_answer", "support")


def _sciq(directory: Path, _: str) -> Splits:
    return {
        split: _json_lines(_first(directory, f"sciq_{split}*.jsonl", f"{split}*.jsonl"), *_SCIQ)
        for split in ("train", "validation", "test")
    }


def _boolq(directory: Path, _: str) -> Splits:
    return {
        split: [
            {"question": row["question"], "passage": row["passage"], "label": int(row["answer"])}
            for row in _json_lines(
                _first(directory, f"boolq_{split}*.jsonl", f"{split}*.jsonl"),
                "question", "passage", "answer",
            )
        ]
        for split in ("train", "validation")
    }  # fmt: skip


def _logiqa(directory: Path, _: str) -> Splits:
    files = {"train": "Train.txt", "validation": "Eval.txt", "test": "Test.txt"}
    return {split: _logiqa_file(directory / name) for split, name in files.items()}


def _logiqa_file(path: Path) -> list[Question]:
    """Blocks of lines: the letter of the answer, the context, the question, and four options."""
    if not path.is_file():
        return []
    questions = []
    lines = [line.strip() for line in read_text(path).split("\n")]
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line]
    if len(filled) % 7:
        raise UserError(
            f"{path}: {len(filled)} lines with text; wanted are seven for each question: letter, "
            "context, question, four options"
        )
    for first in range(0, len(filled), 7):
        (number, letter), *rest = filled[first : first + 7]
        _letter(letter, "ABCD", f"{path}:{number}")
        context, question, *options = (line for _, line in rest)
        questions.append({
            "label": letter.lower(), "context": context, "question": question,
            "options": [option[2:].strip() for option in options],
        })  # fmt: skip
    return questions


def _mmlu(directory: Path, subject: str) -> Splits:
    files = {"dev": "dev", "validation": "val", "test": "test"}
    return {
        split: _mmlu_file(directory / folder / f"{subject}_{folder}.csv", subject)
        for split, folder in files.items()
    }


def _mmlu_file(path: Path, subject: str) -> list[Question]:
    """Rows without a first line of names: question, four options, letter."""
    if not path.is_file():
        return []
    rows = []
    for number, row in enumerate(_checked(csv.reader(io.StringIO(read_text(path))), path), start=1):
        if len(row) != 6:
            raise UserError(
                f"{path}: row {number} has {len(row)} columns; wanted are six: question, four "
                "options, letter"
            )
        question, *options, letter = row
        answer = _letter(letter, "ABCD", f"{path}: row {number}")
        rows.append(
            {"question": question, "subject": subject, "choices": options, "answer": answer}
        )
    return rows


def _lettered(
    names: Mapping[str, tuple[str, str]], question: str, answer: str
) -> Callable[[Path, str], Splits]:
    """The reader of CSV files with columns `A` to `D`.

    `names`: folder and end of the file's name, by split. Files without answers are left out.
    """

    def read(directory: Path, subject: str) -> Splits:
        splits: Splits = {}
        for split, (folder, end) in names.items():
            path = _first(directory / folder, f"{subject}{end}.csv")
            rows = _csv_rows(path, question, *"ABCD", answer)
            splits[split] = [
                {key: row[key] for key in (question, *"ABCD")}
                | {answer: "ABCD"[_letter(row[answer], "ABCD", f"{path}: row {number}")]}
                for number, row in enumerate(rows, start=1)
            ]
        return splits

    return read


def _bbh(directory: Path, task: str) -> Splits:
    path = directory / f"{task}.json"
    if not path.is_file():
        return {}
    content = read_json_object(path)
    _check_keys(content, ("examples",), str(path))
    for number, row in enumerate(content["examples"], start=1):
        _check_keys(row, ("input", "target"), f"{path}: example {number}")
    return {"test": [{key: row[key] for key in ("input", "target")} for row in content["examples"]]}


DATASETS: Mapping[str, LocalData] = {
    "baber/piqa": LocalData("PIQA", _piqa, lambda _: "val.csv", ("validation",)),
    "allenai/ai2_arc": LocalData(
        "ARC", _arc, lambda subset: f"{_ARC_FILES.get(subset, subset)}.jsonl",
        ("test", "validation"),
    ),
    "allenai/sciq": LocalData(
        "SciQ", _sciq, lambda _: "sciq_validation.jsonl", ("test", "validation")
    ),
    "aps/super_glue/boolq": LocalData(
        "BoolQ", _boolq, lambda _: "boolq_validation.jsonl", ("validation",)
    ),
    "EleutherAI/logiqa": LocalData("LogiQA", _logiqa, lambda _: "Test.txt", ("test",)),
    "cais/mmlu": LocalData("MMLU", _mmlu, lambda name: f"test/{name}_test.csv", ("test",)),
    "ceval/ceval-exam": LocalData(
        "C-Eval", _lettered({"dev": ("dev", "_dev"), "val": ("val", "_val")}, "question", "answer"),
        lambda name: f"val/{name}_val.csv", ("val",),
    ),
    "haonan-li/cmmlu": LocalData(
        "CMMLU", _lettered({"dev": ("dev", ""), "test": ("test", "")}, "Question", "Answer"),
        lambda name: f"test/{name}.csv", ("test",),
    ),
    "SaylorTwift/bbh": LocalData("BBH", _bbh, lambda name: f"{name}.json", ("test",)),
}  # fmt: skip
"""The data sets that can be read, by their name on the hub; BoolQ is a subset there."""
