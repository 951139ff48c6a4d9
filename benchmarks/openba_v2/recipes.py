"""The comparisons of the OpenBA-V2 report on a small OpenBA: stages, mixtures, objectives.

    python benchmarks/paper.py --out DIR [--model DIR] [--texts DIR] [--part 0.5]

`--model` and `--texts` are the directories that recipes/prepare_mini_openba.py writes; their
defaults are where it writes them. The script runs:

- recipes/mini-openba.yaml, the same with all cuts at once (table 1), and with all cuts of layers
  at once;
- after the cut of widths: UL2, D-UL2 and O-UL2 (also across documents), for the time that D-UL2
  takes;
- after the cut of widths: D-UL2 by the rules of the report and of its released code.

Runs that are already complete in `--out` are not repeated. DIR/paper.html shows figure 6 (losses of
the denoisers during training), figure 7 (their shares) and the tables. It takes three quarters of
an hour on two cores.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from common import Result, parser, say, show, write_figure

import regrow
from regrow.common.progress import Progress
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout_components import heldout_denoisers
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.rows.denoisers import UL2, Denoiser
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.steps import REFERENCES
from regrow.pipeline.summary import summarise
from regrow.report.page import mixture_charts
from regrow.report.records import RunSummary
from regrow.report.svg import Svg

RECIPES = Path(__file__).parents[1] / "recipes"
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
HALF = Denoiser(math.inf, 0.5, "<S>")
"""The denoiser of four fifths of O-UL2's rows: it takes out the second half of a text."""
MEASURED_TOKENS = 32_768
WIDTH = "width"

Recipe = dict[str, Any]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--model", type=Path, default=RECIPES / "mini-openba/model")
    arguments.add_argument("--texts", type=Path, default=RECIPES / "mini-openba")
    arguments.add_argument(
        "--part", type=float, help="share of the recipe's tokens [default: 1, quick: 0.05]"
    )
    options = arguments.parse_args()
    part = options.part or (0.05 if options.quick else 1)
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = load(options.model, options.texts, part)
    staged = run(recipe, options.out / "staged", compare=("at-once", "control"))
    depth = run(depth_at_once(recipe), options.out / "depth-at-once")
    trained = equal_times(recipe, options.out)
    by_rule = {"stable": trained["d-ul2"], **other_rules(recipe, options.out)}
    tokens = 2_048 if options.quick else MEASURED_TOKENS
    texts = [Path(path) for path in recipe["data"]["heldout"].values()]
    losses = {
        name: denoiser_losses(options.out / directory(name), texts, tokens, row_length(recipe))
        for name in trained
    }
    page = options.out / "paper.html"
    figures = mixtures(staged)
    page.write_text(draw(staged, depth, trained, losses, by_rule, figures), encoding="utf-8")
    for name, _, svg in figures:
        write_figure(svg, options.out / f"{name}.svg")
    say(f"{page}")
    results = [*of_stages(staged, depth), *of_objectives(losses), *of_rules(by_rule)]
    show(results, as_json=options.json)


# The recipes


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
    stages = {stage["name"]: stage for stage in recipe["stages"]}
    tokens = stages[WIDTH]["recover"]["tokens"]
    found = {"d-ul2": run(after_the_layers(recipe, out, "d-ul2", tokens), out / "d-ul2")}
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


def other_rules(recipe: Recipe, out: Path) -> dict[str, RunSummary]:
    """D-UL2 by the rules of the report and its code, from the first shares of that code."""
    stages = {stage["name"]: stage for stage in recipe["stages"]}
    tokens = stages[WIDTH]["recover"]["tokens"]
    return {
        rule: run(after_the_layers(recipe, out, "d-ul2", tokens, rule), out / f"d-ul2-{rule}")
        for rule in RULES
    }


def directory(name: str) -> str:
    return name.replace(" ", "-")


def seconds(out: Path) -> float:
    outputs = read_entries(out / "ledger.jsonl")[f"{WIDTH}/recover"].outputs
    return float(outputs["seconds"]["recover"])


def denoiser_losses(out: Path, texts: list[Path], tokens: int, row: int) -> dict[str, float]:
    """Held-out loss of each denoiser of UL2, and of `HALF`, on the same text for all models."""
    directory = out / "stages" / WIDTH / "model"
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    documents = (text for path in texts for text in read_documents(path))
    denoisers = {**UL2, "half": HALF}
    return heldout_denoisers(documents, tokenizer, model.config, row, tokens, denoisers).losses(
        model
    )


# Results


def bits_of(summary: RunSummary, model: str, *, cut: bool = False) -> float:
    """Mean bits per byte over the held-out texts, after the cut or at the end of a stage."""
    return _mean(summary, model, cut=cut)[1]


def _mean(summary: RunSummary, model: str, *, cut: bool) -> tuple[float, float]:
    """Means over the held-out texts: nats per token, and bits per byte."""
    (row,) = (row for row in summary.models if row.name == model)
    scores = (row.after_cut if cut else row.after_recovery or row.after_cut).values()
    return (
        sum(score.loss or math.nan for score in scores) / len(scores),
        sum(score.bits_per_byte or math.nan for score in scores) / len(scores),
    )


def _cells(summary: RunSummary, model: str, *, cut: bool) -> list[str]:
    loss, bits = _mean(summary, model, cut=cut)
    return [f"{loss:.3f}", f"{bits:.3f}"]


def of_stages(staged: RunSummary, depth: RunSummary) -> Iterator[Result]:
    unit = "bits/byte"
    stages = [stage.name for stage in staged.stages]
    layers = [stage.name for stage in staged.stages if stage.name.startswith("depth")]
    peer = "all at once"
    yield Result("layers in stages, after the last cut", bits_of(staged, layers[-1], cut=True),
                 unit, peer, bits_of(depth, "depth", cut=True))  # fmt: skip
    yield Result("all stages", bits_of(staged, stages[-1]), unit, peer,
                 bits_of(staged, "at-once"))  # fmt: skip
    yield Result("all stages", bits_of(staged, stages[-1]), unit,
                 "the original, trained on", bits_of(staged, "control"))  # fmt: skip
    for stage in staged.stages:
        for mixture in stage.mixtures:
            largest = max(shares["S"] for _, shares in mixture.shares)
            yield Result(f"{stage.name}: largest share of S in the mixture", largest, "share",
                         "an equal share", 1 / len(UL2))  # fmt: skip


def of_objectives(losses: Mapping[str, Mapping[str, float]]) -> Iterator[Result]:
    """Losses at equal time, compared with UL2."""
    for name in [name for name in OBJECTIVES if name != "ul2"]:
        for what in ("mean", "S", "half"):
            mine, other = (
                sum(found[d] for d in UL2) / len(UL2) if what == "mean" else found[what]
                for found in (losses[name], losses["ul2"])
            )
            label = {"mean": "mean of the denoisers", "S": "the last quarter",
                     "half": "the last half"}[what]  # fmt: skip
            yield Result(f"{name}: {label}", mine, "nats/token", "ul2", other)


def of_rules(by_rule: Mapping[str, RunSummary]) -> Iterator[Result]:
    for rule, summary in by_rule.items():
        shares = last_shares(summary)
        yield Result(f"d-ul2 by the rule {rule}: last share of S", shares["S"], "share",
                     "an equal share", 1 / len(UL2))  # fmt: skip


def last_shares(summary: RunSummary) -> dict[str, float]:
    (stage,) = summary.stages
    (mixture,) = stage.mixtures
    return mixture.shares[-1][1]


def mixtures(staged: RunSummary) -> list[tuple[str, str, Svg]]:
    """Figures 6 and 7 of each stage: name, caption, chart."""
    kinds = (
        ("losses", "loss of each denoiser above the original's (figure 6)"),
        ("shares", "shares (figure 7)"),
    )
    return [
        (f"{stage.name}-{name}", f"{stage.name}: {caption}", svg)
        for stage in staged.stages
        for mixture in stage.mixtures
        for (name, caption), svg in zip(
            kinds, reversed(mixture_charts(mixture, stage.name)), strict=True
        )
        if svg is not None
    ]


def draw(
    staged: RunSummary,
    depth: RunSummary,
    trained: Mapping[str, RunSummary],
    losses: Mapping[str, Mapping[str, float]],
    by_rule: Mapping[str, RunSummary],
    figures: list[tuple[str, str, Svg]],
) -> str:
    empty = ["", ""]
    rows = [["original", *empty, *_cells(staged, "original", cut=False)]]
    recipe = {stage.name: stage for stage in staged.stages}
    for name in [*recipe, "at-once", "control"]:
        stage = recipe.get(name)
        is_cut = name == "at-once" if stage is None else bool(stage.cut)
        (row,) = (row for row in staged.models if row.name == name)
        rows.append([
            name,
            *(_cells(staged, name, cut=True) if is_cut else empty),
            *(_cells(staged, name, cut=False) if row.after_recovery else empty),
        ])  # fmt: skip
    rows.append(["layers at once", *_cells(depth, "depth", cut=True), *empty])
    columns = list(next(iter(losses.values())))
    by_objective = [
        [name, f"{_tokens(trained[name]):,}", *(f"{losses[name][c]:.3f}" for c in columns)]
        for name in OBJECTIVES
    ]
    shares = {rule: last_shares(summary) for rule, summary in by_rule.items()}
    of_shares = [[rule, *(f"{found[name]:.3f}" for name in UL2)] for rule, found in shares.items()]
    css = files("regrow.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>OpenBA-V2, small</title>'
        f"<style>{css} h2 {{ margin-top: 2.5rem }}</style><body><main>"
        "<h2>Staged against at once (table 1)</h2>"
        + _table(["", "after the cut: nats/token", "bits/byte", "recovered", "bits/byte"], rows)
        + "<h2>UL2, D-UL2 and O-UL2 at equal time</h2>"
        + _table(["", "tokens", *columns], by_objective)
        + "<h2>Last shares of D-UL2, by its rule</h2>"
        + _table(["", *UL2], of_shares)
        + '<h2>Mixtures</h2><div class="charts">'
        + "".join(_figure(caption, svg) for _, caption, svg in figures)
        + "</div></main></body></html>"
    )


def _tokens(summary: RunSummary) -> int:
    return summary.stages[0].curve[-1][0]


def _figure(caption: str, svg: Svg) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg.__html__()}</figure>"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    head = "".join(f'<th class="n">{escape(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="n">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


if __name__ == "__main__":
    main()
