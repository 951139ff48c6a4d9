"""The script that writes what the recipe of the demo reads."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[1] / "recipes/prepare_quickstart.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_quickstart", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(st.dictionaries(st.text(max_size=3), st.sampled_from("abcdefgh"), max_size=40))
def test_no_text_is_both_trained_on_and_held_out(script: ModuleType, texts: dict[str, str]) -> None:
    """Topics of CPython have texts in common: `else` and `if`."""
    train, heldout = script.split(texts)
    assert heldout == sorted(texts)[7::8]
    seen = {texts[name] for name in heldout}
    assert train == [name for name in sorted(texts) if texts[name] not in seen]
    assert seen.isdisjoint(texts[name] for name in train)
