"""A recipe that evaluates its models on tasks."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

import regrow
from regrow.common.errors import UserError
from regrow.evaluation.significance import paired_test
from regrow.pipeline.ledger import Entry, read_entries
from regrow.pipeline.recipe import EvaluateSpec, Recipe
from regrow.pipeline.recipe_file import load_recipe
from regrow.pipeline.summary import summarise
from regrow.pipeline.task_steps import evaluate_inputs
from regrow.pipeline.task_summary import evaluation_rows
from regrow.pipeline.task_summary import kept as quality_of
from regrow.report.page import render_page
from tests.evaluation.tasks.files import write_all
from tests.tiny import sentences, write_model, write_text

EVALUATE = {"tasks": ["piqa", "mmlu_anatomy"], "data": "questions", "precision": "fp32"}
CUTS = [
    {"name": "depth", "cut": {"layers": 3, "by": "random", "refit": False}},
    {"name": "width", "cut": {"ffn": 32, "by": "random", "refit": False}},
]


def write(home: Path, **changes: Any) -> Path:
    """A recipe without training, with its model, texts and questions."""
    if not (home / "model").exists():
        write_model(home / "model", max_position_embeddings=1024)
        write_all(home / "questions")
        for number, name in enumerate(("train", "heldout")):
            write_text(home / f"{name}.jsonl", sentences(4, seed=number))
    recipe = {
        "name": "r", "model": "model", "stages": CUTS, "evaluate": EVALUATE,
        "data": {"train": "train.jsonl", "heldout": {"text": "heldout.jsonl"}}, **changes,
    }  # fmt: skip
    path = home / "recipe.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    return path


def test_original_and_result_are_evaluated(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    out = tmp_path / "run"
    regrow.run(recipe, out)
    entries = read_entries(out / "ledger.jsonl")
    done = [name for name in entries if name.endswith("/evaluate")]
    assert done == ["original/evaluate", "width/evaluate"]
    own = regrow.evaluate(
        tmp_path / "model", EVALUATE["tasks"], data=tmp_path / "questions", precision="fp32",
        cache=tmp_path / "cache",
    )[0]  # fmt: skip
    found = entries["original/evaluate"].outputs["tasks"]
    assert [each["value"] for each in found] == [score.value for score in own.tasks]
    summary = summarise(out)
    assert [row.task for row in summary.evaluation] == EVALUATE["tasks"]
    assert all(row.low is not None and row.after is not None for row in summary.evaluation)
    assert summary.quality_kept is None, "no task of five questions is above chance beyond doubt"
    assert "mmlu_anatomy" in render_page(summary)
    size = (out / "ledger.jsonl").stat().st_size
    regrow.run(recipe, out)
    assert (out / "ledger.jsonl").stat().st_size == size, "nothing is done twice"


def test_the_card_of_an_evaluated_stage_has_its_scores_and_those_of_the_original(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    regrow.run(write(tmp_path, evaluate=None), out)
    regrow.run(write(tmp_path), out)
    entries = read_entries(out / "ledger.jsonl")
    before, after = (
        {score["task"]: score for score in entries[f"{name}/evaluate"].outputs["tasks"]}
        for name in ("original", "width")
    )
    card = ModelCard((out / "stages/width/model/README.md").read_text())
    for task, score in after.items():
        cells = [f"{e['value']:.3f} ± {e['error']:.3f}" for e in (before[task], score)]
        name = task.replace("_", r"\_")
        metric = score["metric"].replace("_", r"\_")
        row = f"| {name}, {metric} | {score['questions']} | {' | '.join(cells)} |"
        assert row in card.text
    assert isinstance(card.data, ModelCardData)
    assert card.data.model_name == "model, pruned to 28.9K parameters"
    found = {each.dataset_type: each for each in card.data.eval_results or ()}
    assert found.keys() == after.keys()
    for task, each in found.items():
        assert each.metric_type == after[task]["metric"]
        assert each.metric_value == pytest.approx(after[task]["value"], abs=1e-4)
    other = (out / "stages/depth/model/README.md").read_text()
    assert "model-index" not in other
    assert "lm-eval" not in other


def test_all_stages_can_be_evaluated_later(tmp_path: Path) -> None:
    out = tmp_path / "run"
    regrow.run(write(tmp_path, evaluate=None), out)
    regrow.run(write(tmp_path), out)
    regrow.run(write(tmp_path, evaluate={**EVALUATE, "stages": True}), out)
    entries = read_entries(out / "ledger.jsonl")
    done = [name for name in entries if name.endswith("/evaluate")]
    assert sorted(done) == ["depth/evaluate", "original/evaluate", "width/evaluate"]
    rows = summarise(out).evaluation
    assert [(row.task, row.metric) for row in rows[:2]] == [
        ("piqa", "acc_norm, depth"), ("mmlu_anatomy", "acc, depth"),
    ]  # fmt: skip
    assert len(rows) == 4
    for task, kept in (("piqa", 0.6), ("mmlu_anatomy", 0.4)):
        for entry in ("original", "depth", "width"):
            (score,) = (
                each for each in entries[f"{entry}/evaluate"].outputs["tasks"]
                if each["task"] == task
            )  # fmt: skip
            score["value"] = {"original": 0.9, "depth": 0.8, "width": kept}[entry]
            score["error"] = 0.1
    left, whole = (0.6 - 0.5) + (0.4 - 0.25), (0.9 - 0.5) + (0.9 - 0.25)
    found = quality_of(entries, ("depth", "width"))
    assert found is not None
    assert found.share == pytest.approx(left / whole)
    # A last stage that is not evaluated yet has no share.
    assert quality_of(entries, ("depth", "width", "more")) is None


def scored(**values: tuple[float, float]) -> dict[str, Any]:
    """What the ledger keeps of tasks, each with a value and an error."""
    tasks = [
        {
            "task": name,
            "value": value,
            "error": error,
            "chance": 0.25,
            "questions": 100,
            "marks": "".join("01"[number < 100 * value] for number in range(100)),
        }
        for name, (value, error) in values.items()
    ]
    return {"tasks": tasks, "groups": []}


def test_a_group_counts_as_one_task_of_the_quality_that_is_kept() -> None:
    before = scored(piqa=(0.75, 0.04), a=(0.45, 0.09), b=(0.25, 0.09))
    after = scored(piqa=(0.65, 0.04), a=(0.25, 0.09), b=(0.25, 0.09))
    for outputs, value in ((before, 0.35), (after, 0.25)):
        outputs["groups"] = [
            {"task": "g", "value": value, "error": 0.04, "chance": 0.25, "tasks": ["a", "b"]}
        ]
    entries = {
        f"{stage}/evaluate": Entry(f"{stage}/evaluate", "k", {}, outputs, {}, "", 1.0)
        for stage, outputs in (("original", before), ("s", after))
    }
    found = quality_of(entries, ("s",))
    assert found is not None
    assert found.share == pytest.approx(0.4 / (0.5 + 0.1))
    assert found.interval is not None
    assert found.interval[0] < found.share < found.interval[1]
    for outputs in (before, after):
        outputs["tasks"][0]["marks"] = ""
    without = quality_of(entries, ("s",))
    assert without is not None
    assert without.interval is None


@pytest.mark.parametrize("all_have_marks", [True, False])
def test_the_interval_of_a_group_is_over_the_questions_of_its_tasks(all_have_marks: bool) -> None:
    sides = []
    for a, b in (("1110", "111101"), ("1010", "010100")):
        marks = {"a": a, "b": b if all_have_marks else ""}
        tasks = [
            {"task": name, "metric": "acc", "value": 0.5, "marks": given}
            for name, given in marks.items()
        ]
        sides.append({
            "tasks": tasks,
            "groups": [{"task": "g", "metric": "acc", "value": 0.5, "tasks": ["a", "b"]}],
        })  # fmt: skip
    entries = {
        f"{stage}/evaluate": Entry(f"{stage}/evaluate", "k", {}, outputs, {}, "", 1.0)
        for stage, outputs in zip(("original", "s"), sides, strict=True)
    }
    row, *_ = evaluation_rows(entries, ("s",))
    whole = paired_test([int(x) for x in "1110111101"], [int(x) for x in "1010010100"])
    assert row.task == "g"
    assert (row.low, row.high) == ((whole.low, whole.high) if all_have_marks else (None, None))


def test_a_task_file_is_known_by_its_content(tmp_path: Path) -> None:
    task = tmp_path / "mine.yaml"
    spec = EvaluateSpec(tasks=("mine.yaml",))
    there = EvaluateSpec(tasks=(str(task),))
    recipe = load_recipe(write(tmp_path))
    here, elsewhere = (
        evaluate_inputs(recipe.model_copy(update={"evaluate": each}), "hash")
        for each in (spec, there)
    )
    assert here == elsewhere
    assert here["evaluate"]["tasks"] == ["mine.yaml"]


def test_other_questions_are_noticed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    regrow.run(write(tmp_path), out)
    file = tmp_path / "questions/piqa/val.csv"
    file.write_text(file.read_text().replace("goal 1", "another goal"))
    with pytest.raises(UserError, match=r"questions: changed.*original \(tasks\), width \(tasks\)"):
        regrow.run(write(tmp_path), out)
    regrow.run(write(tmp_path), out, redo=True)
    with pytest.raises(UserError, match="evaluate is no longer there"):
        regrow.run(write(tmp_path, evaluate=None), out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "none"}, r"evaluate\.data: .*none: no such directory"),
        ({"tasks": ["mine.yaml"]}, r"evaluate\.tasks: .*/mine\.yaml: no such file"),
        ({"tasks": []}, "at least 1 is wanted"),
        ({"shots": -1}, "at least 0 is wanted"),
        ({"shots": {"piqa": -1}}, r"shots\.piqa.*at least 0 is wanted"),
        ({"shots": {"mmlu": 5}}, r"evaluate\.shots mmlu: none of the tasks has this name"),
        ({"tasks": ["sciq"], "shots": 2}, r"evaluate\.shots: sciq: has no demonstrations"),
        ({"mode": "words"}, "letter or likelihood is wanted"),
        ({"stages": 1}, "true or false is wanted"),
        ({"task": "piqa"}, "task: unknown"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recipe = write(tmp_path, evaluate={**EVALUATE, **changes})
    with pytest.raises(UserError, match=message):
        regrow.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_paths_start_at_the_recipe(tmp_path: Path) -> None:
    recipe: Recipe = load_recipe(
        write(tmp_path, evaluate={**EVALUATE, "tasks": ["a.yaml", "piqa"]})
    )
    assert recipe.evaluate is not None
    assert recipe.evaluate.data == tmp_path / "questions"
    assert recipe.evaluate.tasks == (str(tmp_path / "a.yaml"), "piqa")
    assert json.loads(recipe.model_dump_json())["evaluate"]["stages"] is False
