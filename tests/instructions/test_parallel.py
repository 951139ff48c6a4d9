"""The same text in two languages."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.instructions.config import InstructionSource
from regrow.instructions.parallel import paired
from regrow.instructions.reading import Reading, read_source


def pairs(one: Path, other: Path) -> tuple[list[tuple[str, str, str]], Reading]:
    reading = Reading()
    source = InstructionSource(path=one, translation=other, name="both")
    found = [
        (each.id, str(each.fields["text"]), str(each.fields["translation"]))
        for each in read_source(source, reading, seed=0)
    ]
    return found, reading


def objects(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_lines(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_text("Good morning, all\n\nOK\nWater\n", encoding="utf-8")
    other.write_text("大家早上好\n\nOK\n水流\n", encoding="utf-8")
    found, reading = pairs(one, other)
    assert found == [
        ("both/a#1", "Good morning, all", "大家早上好"), ("both/a#4", "Water", "水流"),
    ]  # fmt: skip
    assert reading.broken == {"both sides in the same language": 1}
    other.write_text("大家早上好\n")
    with pytest.raises(UserError, match="b: has fewer lines than its translation"):
        pairs(one, other)


def test_ids_in_another_order(tmp_path: Path) -> None:
    one = objects(
        tmp_path / "a", {"id": 1, "text": "River\nStone bridge"}, {"id": 2, "text": "Night wind"},
        {"id": 3, "text": "Alone"}, {"id": 2, "text": "Night wind"}, {"text": "x"},
    )  # fmt: skip
    other = objects(
        tmp_path / "b", {"id": 2, "text": "夜里\n的风"}, {"id": 1, "text": "河流\n石桥"}
    )
    found, reading = pairs(one, other)
    assert sorted(found) == [
        ("both/a#1", "River", "河流"), ("both/a#1.2", "Stone bridge", "石桥"),
        ("both/a#2", "Night wind", "夜里\n的风"),
    ]  # fmt: skip
    assert reading.broken == {
        "its id stands twice": 1, "no id": 1, "its id is in one of the files alone": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        ("Water", "水", "a side without text"),
        ("Water", "вода течёт", "a side in neither English nor Chinese"),
        ("Water", "L'eau", "both sides in the same language"),
        ("Click the", "请点击「", "a bracket or a quotation without its other half"),
        ("Water (cold)", "水流（冷]", "a bracket or a quotation without its other half"),
        ("Water", "水流" * 20, "one side far longer than the other"),
    ],
)
def test_what_is_no_translation(one: str, other: str, problem: str) -> None:
    assert paired(one, other) == (None, problem)


def test_different_kinds(tmp_path: Path) -> None:
    one = objects(tmp_path / "a", {"id": 1, "text": "x"})
    other = tmp_path / "b"
    other.write_text("x\n")
    with pytest.raises(UserError, match=r"a: JSON lines, but .*b: text; give two texts"):
        pairs(one, other)


@pytest.mark.parametrize(
    "row",
    [
        {"translation": {"en": "River", "zh": "河流"}},
        {"english": "River", "chinese": "河流"},
        {"en": "River", "zh": "河流"},
    ],
)
def test_both_sides_in_a_record(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "a"
    path.write_text(json.dumps(row) + "\n")
    (found,) = read_source(InstructionSource(path=path), Reading(), seed=0)
    assert found.fields == {
        "text": "River", "translation": "河流", "text_language": "en",
        "translation_language": "zh",
    }  # fmt: skip


def test_both_sides_in_columns(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("河流\tRiver\n石桥\t石桥\n", encoding="utf-8")
    reading = Reading()
    columns: dict[str, Any] = {"text": 1, "translation": 2}
    source = InstructionSource(path=path, task="translation", columns=columns)
    (found,) = read_source(source, reading, seed=0)
    assert (found.fields["text_language"], found.fields["translation"]) == ("zh", "River")
    assert reading.broken == {"both sides in the same language": 1}


def test_paths_may_be_relative_and_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    for name in ("a", "more/b"):
        Path(name).write_text(json.dumps({"en": f"River {name}", "zh": f"河流 {name}"}) + "\n")
    source = InstructionSource(path=[Path("a"), tmp_path / "more/b"], name="n")
    found = list(read_source(source, Reading(), seed=0))
    assert [each.id for each in found] == ["n/a#1", "n/more/b#1"]


def test_one_translation_for_one_file(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("River\n")
    source = InstructionSource(path=tmp_path / "[ab]", name="n", translation=tmp_path / "c")
    with pytest.raises(UserError, match="n: 2 files, but one translation; give one path"):
        list(read_source(source, Reading(), seed=0))
