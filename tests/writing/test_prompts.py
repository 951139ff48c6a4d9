import gzip
from pathlib import Path

import pytest

from regrow.writing.prompts import read_prompts
from tests.tiny import write_text


@pytest.mark.parametrize("name", ["my.questions.txt", "Q.TXT", "asked.v2.txt.gz"])
def test_each_line_of_a_text_file_is_a_prompt(tmp_path: Path, name: str) -> None:
    """Whatever else its name holds."""
    lines = b"The river\n\n The stone \n"
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert read_prompts(tmp_path / name) == ["The river", "The stone"]
    write_text(tmp_path / "asked.txt.jsonl", ["The river\nis wide"])
    assert read_prompts(tmp_path / "asked.txt.jsonl") == ["The river\nis wide"]
