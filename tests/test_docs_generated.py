"""The reference pages in docs/ are what docs/generate.py writes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["recipe.md", "commands.md", "cleaning-settings.md"])
def test_pages_are_up_to_date(script: ModuleType, name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == script.PAGES[name](), "run: python docs/generate.py"


def test_every_key_is_described(script: ModuleType) -> None:
    """No row of a table ends without words."""
    pages = script.recipe_page() + script.steps_page()
    rows = [line for line in pages.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []
