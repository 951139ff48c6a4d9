"""Configurations, and the files that their paths stand for."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from regrow.common.errors import UserError
from regrow.instructions.config import files_of, load_instructions
from regrow.pipeline.recipe_file import load_recipe

SMALL: dict[str, Any] = {"name": "n", "sources": [{"path": "a.jsonl"}]}


def load(tmp_path: Path, **changes: Any) -> Any:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return load_instructions(path)


def test_paths_start_at_the_configuration(tmp_path: Path) -> None:
    found = load(tmp_path, templates=["t.yaml"], contamination={"against": ["x", "/y"]})
    assert found.sources[0].path == [tmp_path / "a.jsonl"]
    assert found.sources[0].title == "a"
    assert found.templates == [tmp_path / "t.yaml"]
    assert found.contamination.against == (tmp_path / "x", Path("/y"))


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    found = load(tmp_path, sources=[{"path": "a", "labels": {0: "no way", 1: "sure"}}])
    assert found.sources[0].labels == {"0": "no way", "1": "sure"}


def test_numbers_as_in_recipes(tmp_path: Path) -> None:
    found = load(tmp_path, rows="1.5K", heldout="5%", task_caps={"cloze": "2K"})
    assert (found.rows, found.heldout, found.task_caps) == (1_500, 0.05, {"cloze": 2_000})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sorces": []}, r"c\.yaml:\d+: sorces: unknown key; did you mean sources"),
        ({"sources": [{"pth": "a"}]}, r"sources\.0\.pth: unknown key; did you mean path"),
        ({"sources": [{"path": []}]}, r"sources\.0\.path: at least 1 is wanted"),
        ({"sources": [{"path": "a", "task": "clozes"}]}, "'clozes' is no task; did you mean cloze"),
        ({"sources": [{"path": "a", "labels": {True: "x"}}]}, "labels: a label is read as true or"),
        ({"task_caps": {"x": 1}}, "task_caps: 'x' is no task"),
        ({"sources": [{"path": "a", "rate": float("inf")}]}, r"rate: .*finite"),
        ({"heldout": float("nan")}, "heldout: "),
        ({"near_duplicates": float("nan")}, "near_duplicates: "),
        ({"few_shot": {"share": float("inf")}}, r"few_shot\.share: "),
        ({"sources": [{"path": "a", "translation": "b", "format": "alpaca"}]},
         "format: without effect on a translation"),
        ({"sources": [{"path": "a", "translation": "b", "labels": {"a": "b"}}]},
         "labels: without effect on a translation"),
        ({"rows": 0}, "rows: more than 0 is wanted, not 0"),
        ({"prompt_tokens": 9}, "prompt_tokens: give the model too"),
        ({"forms": ["chat"]}, r"forms\.0: messages or encoder-decoder is wanted, not 'chat'"),
        ({"sources": [{"path": "a"}, {"path": "b/a"}]}, "two are called 'a'; give each a name"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, **changes)


def test_files(tmp_path: Path) -> None:
    for name in ("x/b.json", "x/a.json", "x/.hidden", "y/a.json", "z.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(*paths: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in files_of([tmp_path / p for p in paths])]

    assert found("x") == ["x/a.json", "x/b.json"]
    assert found("*/a.json", "x/a.json", "z.json") == ["x/a.json", "y/a.json", "z.json"]
    with pytest.raises(UserError, match=r"q/\*\.json: no such file"):
        found("q/*.json")


def test_the_proportions_of_biflan_v2() -> None:
    found = load_instructions(Path(__file__).parents[2] / "recipes/biflan-v2.yaml")
    rates = {each.title: each.rate or 0.0 for each in found.sources}
    english = sum(rate for name, rate in [*rates.items()][:6])
    assert round(sum(rates.values()), 1) == 99.9  # the report rounds
    assert round(english, 1) == 54.1
    assert found.rows == 18_850_000


def test_the_recipe_of_openba_v2_reads_what_biflan_v2_makes() -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    found = load_instructions(recipes / "biflan-v2.yaml")
    last = load_recipe(recipes / "openba-v2.yaml").stages[-1]
    assert last.data is not None
    assert last.recover is not None
    assert last.data.train == [recipes / "biflan-v2/train.jsonl"]
    assert last.data.heldout == {"answers": recipes / "biflan-v2/heldout.jsonl"}
    assert found.prompt_tokens is not None
    assert found.answer_tokens is not None
    assert found.prompt_tokens + found.answer_tokens <= last.recover.row_length
