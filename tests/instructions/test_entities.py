"""Named entities as instructions."""

import gzip
import json
from pathlib import Path

from regrow.instructions.config import InstructionSource
from regrow.instructions.reading import Reading, read_source


def test_english(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("Bo\tB-per\nsaw\tO\nLi\tB-per\nin\tO\nNew\tB-city\nYork\tI-city\n\nNo\tO\n")
    reading = Reading()
    first, second = read_source(InstructionSource(path=path), reading, seed=0)
    assert first.fields["text"] == "Bo saw Li in New York"
    assert first.fields["answer"] == "per: Bo, Li; city: New York"
    assert sorted(first.fields["types"]) == ["city", "per"]
    assert first.fields["tagged"] == "Bo(B-per) saw(O) Li(B-per) in(O) New(B-city) York(I-city)"
    assert second.fields["answer"] == "none"
    assert reading.formats == {"a": "named entities in tags"}


def test_chinese_with_words_for_types(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("李0\tB-PER.NAM\n明1\tI-PER.NAM\n到0\tO\n京0\tB-LOC\n", encoding="utf-8")
    source = InstructionSource(path=path, labels={"PER.NAM": "人名", "LOC": "地名"})
    (found,) = read_source(source, Reading(), seed=0)
    assert (found.fields["text"], found.fields["answer"]) == ("李明到京", "人名：李明；地名：京")
    assert "tagged" not in found.fields  # its tags have the names of the file


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a"
    row = {
        "tagName": "city",
        "input": "To Paris.",
        "instruction": "",
        "output": '["Paris", "Rome"]',
    }
    path.write_text(json.dumps(row) + "\n")
    reading = Reading()
    (found,) = read_source(InstructionSource(path=path), reading, seed=0)
    assert found.fields["answer"] == "city: Paris"
    assert reading.notes == ["a: 1 mentions are not in their text; left out"]


def test_a_packed_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(b"Bo\tB-per\nsaw\tO\n"))
    (found,) = read_source(InstructionSource(path=tmp_path / "a"), Reading(), seed=0)
    assert (found.fields["text"], found.fields["answer"]) == ("Bo saw", "per: Bo")
