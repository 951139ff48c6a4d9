"""What holds for all steps: settings, pickling, purity, and any text whatever."""

import pickle
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from regrow.cleaning.document import Document, Outcome
from regrow.cleaning.steps import STEPS, CleaningStep
from regrow.cleaning.steps.html import Html
from regrow.cleaning.steps.repair import Repair
from regrow.common.errors import UserError
from tests.cleaning.steps.documents import document, text_after

SETTINGS: dict[str, dict[str, Any]] = {
    "privacy": {"regions": ["CN", "US", "GB"]},
    "language": {"keep": [], "threshold": 0, "convert": "simplified"},
    "sentences": {"by": "sentence", "words": 2, "characters": 2},
    "quality": {"spaced": {"least_units": 1}, "chinese": {"least_units": 1}},
    "squeeze": {"longest": 2},
    "repair": {"blank_lines": 1},
    "html": {"main": False},
}
IDEMPOTENT = ("repair", "squeeze", "sentences", "privacy")

pieces = st.sampled_from(
    ["a", "Word ", "汉字", "。", "，", ".", "\n", "\n\n", " ", "\t", "\r", "\0", "\ud800", "\udc00",
     "\u200b", "\u200d", "👨", "\ufe0f", "Ã©", "e\u0301", "1", "13800138000", "+86 ", "@",
     "a@b.com", "QQ:", "微信：", "http://", "[EMAIL]", "::", "ff", "(", ")", "<p>", "</p>", "<!--",
     "```\n", "x = 1;\n", "{", "}", "aaaaaa", "!!!!!!", "hahahahaha", "\x1b[0m", "\x85", "\u2028",
     "0", "#"]
)  # fmt: skip
texts = st.one_of(st.lists(pieces, max_size=30).map("".join), st.text(max_size=80))


@pytest.mark.parametrize("name", STEPS)
class TestEachStep:
    def test_it_is_made_from_settings(self, name: str) -> None:
        step = STEPS[name].model_validate(SETTINGS[name])
        assert step.name == name
        assert step == pickle.loads(pickle.dumps(step))
        with pytest.raises(ValidationError, match="Extra inputs"):
            STEPS[name].model_validate({"no_such_setting": 1})

    def test_every_setting_is_described(self, name: str) -> None:
        words = STEPS[name].__doc__ or ""
        _, _, described = words.partition("\n    Attributes:\n")
        for key in STEPS[name].model_fields:
            assert f"\n        {key}: " in "\n" + described

    @settings(max_examples=60, deadline=None)
    @given(texts)
    @example("")
    @example(" \n ")
    @example("\ud800\udfff\x00\ud800")
    def test_it_takes_any_text_and_is_pure(self, name: str, text: str) -> None:
        step = STEPS[name].model_validate(SETTINGS[name])
        before = Document(text, "id", "source", {"fact": 1.0})
        made = step.apply(before)
        assert made == pickle.loads(pickle.dumps(step)).apply(before)
        assert isinstance(made, Outcome)
        assert all(finding.count > 0 and finding.reason for finding in made.findings)
        assert all(len(finding.example) <= 60 for finding in made.findings)
        if made.document is None:
            assert made.findings
        else:
            assert (made.document.id, made.document.source) == ("id", "source")
            assert made.document.facts["fact"] == 1.0
            assert made.findings or made.document.text == text

    def test_long_lines(self, name: str) -> None:
        step = STEPS[name].model_validate(SETTINGS[name])
        for text in ("a" * 1_000_000, "汉" * 200_000, "1" * 200_000, "a@" * 100_000):
            step.apply(document(text))


@pytest.mark.parametrize("name", IDEMPOTENT)
@settings(max_examples=60, deadline=None)
@example("aaahahahahahaaaaaaa")
@given(texts)
def test_a_second_time_changes_nothing(name: str, text: str) -> None:
    step = STEPS[name].model_validate(SETTINGS[name])
    once = text_after(step, text)
    if once is not None:
        assert text_after(step, once) == once


@settings(max_examples=60, deadline=None)
@given(texts)
def test_repaired_text_can_be_written(text: str) -> None:
    (text_after(Repair(), text) or "").encode()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"html: resiliparse is not installed; pip install"):
        Html()
    assert STEPS["squeeze"].model_validate({}).name == "squeeze"


def test_all_steps_are_registered() -> None:
    assert set(CleaningStep.__subclasses__()) == set(STEPS.values())
    assert all(name == step.name for name, step in STEPS.items())
