"""What is kept of a model: tasks, simple questions, and bits per byte, of it and smaller models.

The first model is the original, and the others are what cuts and trainings made of it, such as the
model of each stage of `make demo` (runs/quickstart/stages/NAME/model). Measured are

- tasks of lm-eval on the same questions, with a paired test against the original;
- 20 and 150 simple questions (`questions.py`);
- bits per byte on three texts: the domain of the demo (Python's documentation, held out), prose
  (recipes/prose.txt), and a manual (benchmarks/manual.txt).
"""

from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import transformers
from common import Result, parser, say, show
from questions import questions, right_answers

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.common import numbers
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout import heldout_loss

HERE = Path(__file__).parent
TASKS = "piqa,arc_easy,sciq,boolq"


def texts() -> dict[str, list[str]]:
    """The three texts, as documents."""
    names = sorted(topics)[7::8]
    return {
        "domain": [topics[name] for name in names],
        "prose": list(read_documents(HERE.parent / "recipes" / "prose.txt")),
        "manual": list(read_documents(HERE / "manual.txt")),
    }


def results(
    models: list[str], tasks: str, data: Path | None, limit: int | None
) -> Iterator[Result]:
    held = texts()
    first: dict[str, float] = {}
    for name in models:
        directory = ModelDirectory(resolve_model(name, None, say))
        model, tokenizer = directory.load(), directory.tokenizer
        found = {
            text: heldout_loss(model, tokenizer, documents, precision="auto").bits_per_byte
            for text, documents in held.items()
        }
        for text, bits in found.items():
            assert bits is not None
            first.setdefault(text, bits)
            yield Result(f"{name}, {text}", bits, "bits/byte", "original", first[text])
        for label, right in right_answers(model, tokenizer, name, questions()):
            first.setdefault(label, right)
            yield Result(f"{name}, questions {label}", right, "right", "original", first[label])
        del model
    how: Any = {"data": data, "limit": limit, "progress": regrow.Progress(say=say)}
    compared = regrow.compare(models, tasks.split(","), speed=True, **how)
    original = compared.models[0]
    for model_scores in compared.models:
        for score, whole in zip(model_scores.tasks, original.tasks, strict=True):
            error = "" if score.error is None else f" ± {100 * score.error:.1f}"
            yield Result(
                f"{model_scores.name}, {score.task} ({score.metric}){error}", 100 * score.value,
                "%", "original", 100 * whole.value,
            )  # fmt: skip
    for each in compared.compared:
        for one in each.differences:
            if one.test is not None:
                say(
                    f"{each.name}, {one.name}: {100 * (one.second - one.first):+.1f} "
                    f"({100 * one.test.low:+.1f} to {100 * one.test.high:+.1f}), "
                    f"p = {one.test.p_value}"
                )
        if each.kept is not None:
            between = each.kept.interval and f" ({numbers.share_interval(each.kept.interval)})"
            name = f"{each.name}, quality kept above chance{between or ''}"
            yield Result(name, 100 * each.kept.share, "%")
    for model_scores, speed in zip(compared.models, compared.speeds or (), strict=False):
        yield Result(
            f"{model_scores.name}, generation ± {speed.spread:.1f}", speed.median, "tokens/s",
            "original, same rounds", speed.median / speed.ratio,
        )  # fmt: skip


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "models", nargs="+", help="directories, GGUF files or hub ids; the original first"
    )
    arguments.add_argument("--data", type=Path, help="the questions; see docs/evaluation.md")
    arguments.add_argument("--tasks", default=TASKS)
    arguments.add_argument("--limit", type=int, help="questions of each task")
    options = arguments.parse_args()
    if options.quick:
        options.limit = 100
    transformers.utils.logging.disable_progress_bar()
    found = results(options.models, options.tasks, options.data, options.limit)
    show(list(found), as_json=options.json)


if __name__ == "__main__":
    main()
