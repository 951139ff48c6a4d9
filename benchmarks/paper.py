"""The tables and figures of the OpenBA-V2 report, measured on small models: docs/paper.md.

    python benchmarks/paper.py --out DIR [--only PART ...] [--smollm2 DIR --smollm2-run DIR]
        [--data DIR]

Each part is measured on the small OpenBA, and on SmolLM2 if `--smollm2` names its directory. What
is found goes to docs/paper.json as soon as a part is done, and docs/paper.md is written from it.
A part that was stopped goes on when the command is repeated. `--only page` measures nothing.

| part | of the report | takes on one core |
|---|---|---|
| stages | tables 1 and 3, figures 6 and 7 | 40 minutes; `--part 0.1`: 5 |
| objectives | D-UL2 and O-UL2 at equal time; after stages | 5 minutes; `--part 0.1`: 1 |
| rules | the mixture of D-UL2; after stages | 3 minutes; `--part 0.1`: 1 |
| cuts | figure 5 | 2 minutes; SmolLM2 6 |
| layers | which layers to drop | 1 minute; SmolLM2 3 |
| vocabulary | figure 8 | 4 minutes; SmolLM2 12 |
| questions | common sense and knowledge; needs `--data` | 2 minutes; SmolLM2 30 |
| entities | named entities; needs `--data` | 3 minutes; SmolLM2 20 |

`--openba` and `--texts` are the directories that recipes/prepare_mini_openba.py writes.
`--smollm2-run` is a finished run of recipes/quickstart.yaml: its stages are the cut models, and
its training text is that of `recipes/quickstart`. `--data` is laid out as for `regrow eval` and
`regrow ner`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import parser, say, write_figure
from openba_v2 import cuts, entities, objectives, questions, stages
from openba_v2.page import write_page
from openba_v2.recipes import RECIPES, load
from openba_v2.values import measure, read_values
from vocabulary import SHARES, beginnings, chart, costs_by_size

DOCS = Path(__file__).parents[1] / "docs"
OPENBA, SMOLLM2 = "openba", "smollm2"
NEEDS_DATA = ("questions", "entities")
Work = Callable[[], Mapping[str, Any]]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--out", type=Path, default=Path("runs/paper"), help="runs and models")
    made.add_argument("--only", nargs="+", choices=[*PARTS, "page"], metavar="PART", default=[])
    made.add_argument("--models", nargs="+", choices=(OPENBA, SMOLLM2), default=(OPENBA, SMOLLM2))
    made.add_argument("--openba", type=Path, default=RECIPES / "mini-openba/model")
    made.add_argument("--texts", type=Path, default=RECIPES / "mini-openba")
    made.add_argument("--smollm2", type=Path, help="the directory of SmolLM2-135M-Instruct")
    made.add_argument("--smollm2-run", type=Path, help="a finished run of recipes/quickstart.yaml")
    made.add_argument("--data", type=Path, help="questions and annotated sentences")
    made.add_argument(
        "--part", type=float, help="share of the recipe's tokens [default: 1, quick: 0.05]"
    )
    made.add_argument("--tokens", type=int, default=4_096, help="of text, for figure 5")
    made.add_argument("--points", type=int, default=5, help="cuts of each line of figure 5")
    made.add_argument("--limit", type=int, default=100, help="questions of a task")
    made.add_argument(
        "--group-limit", type=int, default=2, help="questions of each task of a group"
    )
    made.add_argument("--shots", type=int, help="demonstrations [default: those of the report]")
    made.add_argument("--train", type=int, default=200, help="sentences of a set to train on")
    made.add_argument("--test", type=int, default=50, help="sentences of a set to tag")
    made.add_argument("--epochs", type=int, default=3, help="how often each is trained on")
    made.add_argument("--values", type=Path, default=DOCS / "paper.json", metavar="FILE")
    made.add_argument("--figures", type=Path, default=DOCS / "figures", metavar="DIR")
    made.add_argument("--page", type=Path, default=DOCS / "paper.md", metavar="FILE")
    options = made.parse_args()
    if options.quick:
        options.points, options.limit, options.group_limit = 2, 5, 1
        options.train, options.test, options.epochs = 8, 2, 1
    options.part = options.part or (0.05 if options.quick else 1)
    for part, works in PARTS.items():
        if options.only and part not in options.only:
            continue
        if part in NEEDS_DATA and options.data is None:
            say(f"{part}: left out, it needs --data")
            continue
        options.out.mkdir(parents=True, exist_ok=True)
        for model, settings, work in works(options):
            if model in options.models:
                measure(options.values, part, model, settings, work)
    write_page(read_values(options.values), options.page, options.figures)
    say(f"{options.page}")


# The parts: for each model that is there, its name, what decides the result, and the work.


def _stages(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    recipe = load(options.openba, options.texts, options.part)
    found: list[tuple[str, dict[str, Any], Work]] = [
        (OPENBA, {"part": options.part},
         lambda: stages.small_openba(recipe, options.out, options.figures))
    ]  # fmt: skip
    if options.smollm2_run is not None:
        settings = {"read from": "a finished run of recipes/quickstart.yaml"}
        found.append((SMOLLM2, settings, lambda: stages.finished_run(options.smollm2_run)))
    return found


def _objectives(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    recipe = load(options.openba, options.texts, options.part)
    tokens = 2_048 if options.quick else 32_768
    settings = {"part": options.part, "tokens": tokens}
    return [(OPENBA, settings, lambda: objectives.compared(recipe, options.out, tokens))]


def _rules(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    recipe = load(options.openba, options.texts, options.part)
    return [(OPENBA, {"part": options.part}, lambda: objectives.rules(recipe, options.out))]


def _cuts(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    settings = {"tokens": options.tokens, "points": options.points}

    def work(model: Path, text: list[Path]) -> Work:
        return lambda: cuts.depth_and_width(model, text, options.tokens, options.points)

    found = [(OPENBA, settings, work(options.openba, [options.texts / "train.jsonl"]))]
    if options.smollm2 is not None:
        text = [RECIPES / "quickstart/train.jsonl", RECIPES / "prose.txt"]
        found.append((SMOLLM2, settings, work(options.smollm2, text)))
    return found


def _layers(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    def work(model: Path, texts: Mapping[str, Path]) -> Work:
        return lambda: cuts.layer_choices(model, texts)

    found: list[tuple[str, dict[str, Any], Work]] = [
        (OPENBA, {}, work(options.openba, _heldout(options)))
    ]
    if options.smollm2 is not None:
        found.append((SMOLLM2, {}, work(options.smollm2, {"prose": RECIPES / "prose.txt"})))
    return found


def _vocabulary(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    documents = 10 if options.quick else 60
    shares = SHARES[::3] if options.quick else SHARES
    texts = {name: beginnings(path, documents) for name, path in _heldout(options).items()}

    def work(model: str, directory: Path) -> Work:
        def measured() -> Mapping[str, Any]:
            found = costs_by_size(directory, options.texts / "train.jsonl", texts, shares)
            write_figure(chart(found), options.figures / f"vocabulary-{model}.svg")
            return {
                name: [{"size": size, **asdict(cost)} for size, cost in costs]
                for name, costs in found.items()
            }

        return measured

    settings = {"documents": documents}
    found = [(OPENBA, settings, work(OPENBA, options.openba))]
    if options.smollm2 is not None:
        found.append((SMOLLM2, settings, work(SMOLLM2, options.smollm2)))
    return found


def _questions(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    settings = {name: getattr(options, name) for name in ("limit", "group_limit", "shots")}
    limits = (options.limit, options.group_limit)

    def work(models: dict[str, Path]) -> Work:
        return lambda: questions.scores(models, options.data, limits, options.shots)

    return [(name, settings, work(models)) for name, models in _models(options).items()]


def _entities(options: Any) -> list[tuple[str, dict[str, Any], Work]]:
    how = {name: getattr(options, name) for name in ("train", "test", "epochs")}

    def work(model: str, models: dict[str, Path]) -> Work:
        out = options.out / model
        return lambda: entities.scores(models, options.data, out, **how)

    return [(name, how, work(name, models)) for name, models in _models(options).items()]


def _models(options: Any) -> dict[str, dict[str, Path]]:
    """The originals, each with what was cut from it."""
    found = {OPENBA: {"original": options.openba}}
    staged = options.out / "staged/stages/vocabulary/model"
    if staged.is_dir():
        found[OPENBA]["77 percent cut, in stages"] = staged
    if options.smollm2 is not None:
        found[SMOLLM2] = {"original": options.smollm2}
        if options.smollm2_run is not None:
            for path in sorted(options.smollm2_run.glob("stages/* percent/model"), reverse=True):
                found[SMOLLM2][path.parent.name] = path
    return found


def _heldout(options: Any) -> dict[str, Path]:
    return {
        "English": options.texts / "heldout-en.jsonl",
        "Chinese": options.texts / "heldout-zh.jsonl",
    }


PARTS: Mapping[str, Callable[[Any], list[tuple[str, dict[str, Any], Work]]]] = {
    "stages": _stages, "objectives": _objectives, "rules": _rules, "cuts": _cuts,
    "layers": _layers, "vocabulary": _vocabulary, "questions": _questions, "entities": _entities,
}  # fmt: skip


if __name__ == "__main__":
    main()
