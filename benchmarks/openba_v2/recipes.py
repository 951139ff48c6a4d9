"""The runs of the small OpenBA: the recipe in stages, all cuts at once, objectives after a cut.

A run that is complete in its directory is not repeated, and one that was stopped goes on.
"""

import copy
from pathlib import Path
from typing import Any

import yaml
from common import say

import regrow
from regrow.common.progress import Progress
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.steps import REFERENCES
from regrow.pipeline.summary import summarise
from regrow.report.records import RunSummary

RECIPES = Path(__file__).parents[2] / "recipes"
ACROSS = "o-ul2 across documents"
OBJECTIVES: dict[str, dict[str, Any]] = {
    "ul2": {"objective": "ul2"},
    "d-ul2": {"objective": "d-ul2"},
    "o-ul2": {"objective": "o-ul2"},
    ACROSS: {"objective": "o-ul2", "shared_rows": False},
}
"""Settings of the recovery after the cut of widths, by name."""
RULES = ("paper", "code")
"""The rules that are compared with `stable`, the default."""
WIDTH = "width"

Recipe = dict[str, Any]


def load(model: Path, texts: Path, part: float) -> Recipe:
    """The recipe of the small OpenBA with this model and these texts.

    `part`: the share of its tokens that is trained on.
    """
    recipe: Recipe = yaml.safe_load((RECIPES / "mini-openba.yaml").read_text(encoding="utf-8"))
    recipe["model"] = str(model.resolve())
    data = recipe["data"]
    data["train"] = str((texts / Path(data["train"]).name).resolve())
    data["heldout"] = {
        name: str((texts / Path(path).name).resolve()) for name, path in data["heldout"].items()
    }
    for stage in recipe["stages"]:
        if "recover" in stage:
            tokens = stage["recover"]["tokens"] * part
            stage["recover"] = {**stage["recover"], "tokens": max(8_192, round(tokens))}
            if part < 0.2 and "mixture_tokens" in stage["recover"]:
                stage["recover"]["mixture_tokens"] = 512
    return recipe


def depth_at_once(recipe: Recipe) -> Recipe:
    """A recipe with all cuts of layers at once, and no recovery."""
    last = [stage for stage in recipe["stages"] if "layers" in stage.get("cut", {})][-1]
    return {**recipe, "prompts": [], "stages": [{"name": "depth", "cut": last["cut"]}]}


def after_the_layers(
    recipe: Recipe, out: Path, name: str, tokens: int, rule: str = "stable"
) -> Recipe:
    """A recipe that cuts the widths after the layers of the staged run.

    `name`: the recovery, one of `OBJECTIVES`. `rule`: of the mixture of D-UL2.
    """
    stages = {stage["name"]: stage for stage in recipe["stages"]}
    before = list(stages)[list(stages).index(WIDTH) - 1]
    stage = copy.deepcopy(stages[WIDTH])
    stage["recover"] |= {**OBJECTIVES[name], "tokens": tokens}
    if name == "d-ul2":
        # The references are losses of the uncut model; this run begins with a cut one.
        measured = read_entries(out / "staged/ledger.jsonl")[REFERENCES].outputs["losses"]
        references = next(iter(measured.values()))
        stage["recover"]["denoisers"] = {"rule": rule, "references": references}
    else:
        for key in [key for key in stage["recover"] if key.startswith(("mixture", "denoisers"))]:
            del stage["recover"][key]
    model = str((out / "staged/stages" / before / "model").resolve())
    return {**recipe, "model": model, "prompts": [], "stages": [stage]}


def row_length(recipe: Recipe) -> int:
    lengths = {stage["recover"].get("row_length", 512) for stage in recipe["stages"]
               if "recover" in stage}  # fmt: skip
    return int(min(lengths))


def run(recipe: Recipe, out: Path, compare: tuple[str, ...] = ()) -> RunSummary:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    regrow.run(
        path, out, compare=compare, progress=Progress(say=lambda line: say(f"{out.name}: {line}"))
    )
    return summarise(out)


def equal_times(recipe: Recipe, out: Path) -> dict[str, RunSummary]:
    """All of `OBJECTIVES` trained for the seconds that D-UL2 takes, its measurements included."""
    tokens = _width_tokens(recipe)
    found = {"d-ul2": d_ul2(recipe, out)}
    spent = seconds(out / "d-ul2")
    for name in [name for name in OBJECTIVES if name != "d-ul2"]:
        # A tenth of the tokens measures the speed. A run that was begun keeps its tokens.
        path = out / directory(name)
        recipe_file = path.with_suffix(".yaml")
        if recipe_file.exists():
            (stage,) = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))["stages"]
            tokens_now = stage["recover"]["tokens"]
        else:
            tenth = max(8_192, tokens // 10)
            speed = path.with_name(f"{path.name}-speed")
            run(after_the_layers(recipe, out, name, tenth), speed)
            tokens_now = round(tenth * spent / seconds(speed))
        found[name] = run(after_the_layers(recipe, out, name, tokens_now), path)
        say(f"{name}: {tokens_now:,} tokens, {seconds(path):.0f} s of {spent:.0f}")
    return {name: found[name] for name in OBJECTIVES}


def d_ul2(recipe: Recipe, out: Path) -> RunSummary:
    """D-UL2 after the cut of widths, by the rule `stable`."""
    return run(after_the_layers(recipe, out, "d-ul2", _width_tokens(recipe)), out / "d-ul2")


def other_rules(recipe: Recipe, out: Path) -> dict[str, RunSummary]:
    """D-UL2 by the rules of the report and its code, from the first shares of that code."""
    tokens = _width_tokens(recipe)
    return {
        rule: run(after_the_layers(recipe, out, "d-ul2", tokens, rule), out / f"d-ul2-{rule}")
        for rule in RULES
    }


def _width_tokens(recipe: Recipe) -> int:
    stages = {stage["name"]: stage for stage in recipe["stages"]}
    return int(stages[WIDTH]["recover"]["tokens"])


def directory(name: str) -> str:
    return name.replace(" ", "-")


def seconds(out: Path) -> float:
    outputs = read_entries(out / "ledger.jsonl")[f"{WIDTH}/recover"].outputs
    return float(outputs["seconds"]["recover"])
