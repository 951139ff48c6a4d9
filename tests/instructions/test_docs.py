"""docs/instructions.md names all keys, formats, tasks and fields, and its examples are right."""

import re
from pathlib import Path

from regrow.instructions.config import (
    FewShot,
    Instructions,
    InstructionSource,
    load_instructions,
)
from regrow.instructions.formats.registry import FORMATS
from regrow.instructions.lint import lint
from regrow.instructions.tasks import TASKS
from regrow.instructions.template import load_templates

PAGE = (Path(__file__).parents[2] / "docs/instructions.md").read_text(encoding="utf-8")


def test_all_keys_and_formats_are_named() -> None:
    for model in (Instructions, InstructionSource):
        for name in model.model_fields:
            assert f"| `{name}` |" in PAGE, name
    for name in FewShot.model_fields:
        assert f"{name}:" in PAGE
    for name in FORMATS:
        assert f"`{name}`" in PAGE, name


def test_the_table_of_tasks() -> None:
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (`.*) \|$", PAGE, re.MULTILINE))
    written = {task: re.findall(r"`(\w+)`", rows.get(task, "")) for task in TASKS}
    assert {task: sorted({*fields} - {"____"}) for task, fields in written.items()} == {
        task: sorted(fields) for task, fields in TASKS.items()
    }


def test_the_templates_on_the_page_are_right(tmp_path: Path) -> None:
    (block,) = [
        text for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S) if "tasks:" in text
    ]
    (tmp_path / "t.yaml").write_text(block, encoding="utf-8")
    found = load_templates(tmp_path / "t.yaml")
    assert [each.id for each in found] == ["en/cloze/quiz", "en/question generation/exam"]
    assert lint(found) == []


def test_the_configurations_on_the_page_are_right(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    configs = [text for text in blocks if "sources:" in text]
    assert len(configs) == 2
    for text in configs:
        path = tmp_path / "c.yaml"
        path.write_text(text if "name: small" in text else f"name: n\n{text}", encoding="utf-8")
        assert load_instructions(path).sources
