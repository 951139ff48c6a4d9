"""What is kept of a model: tasks, simple questions, and bits per byte, of it and smaller models.

The first model is the original, and the others are what cuts and trainings made of it, such as the
model of each stage of `make demo` (runs/quickstart/stages/NAME/model). Measured are

- tasks of lm-eval on the same questions, with a paired test against the original;
- 20 simple questions of this file, each with the words that a right answer holds;
- bits per byte on three texts: the domain of the demo (Python's documentation, held out), prose
  (recipes/prose.txt), and a manual (benchmarks/manual.txt).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import transformers
from common import Result, parser, say, show

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.corpus.text import read_documents
from regrow.evaluation.generation import generate
from regrow.evaluation.heldout import heldout_loss

HERE = Path(__file__).parent
TASKS = "piqa,arc_easy,sciq,boolq"
ANSWER_TOKENS = 24
QUESTIONS: Mapping[str, str] = {
    "What is the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "How many days are in a week?": "seven|7",
    "How many minutes are in an hour?": "sixty|60",
    "How many legs does a spider have?": "eight|8",
    "How many wheels does a bicycle have?": "two|2",
    "What is 2 + 2?": "four|4",
    "What is the opposite of hot?": "cold",
    "What is the opposite of up?": "down",
    "What do bees make?": "honey",
    "What is frozen water called?": "ice",
    "What color is grass?": "green",
    "What color is the sky on a clear day?": "blue",
    "Which planet do we live on?": "Earth",
    "What is the first month of the year?": "January",
    "Which language do most people in Spain speak?": "Spanish",
    "Who wrote Romeo and Juliet?": "Shakespeare",
    "Which gas do people need to breathe?": "oxygen",
    "What is the largest ocean on Earth?": "Pacific",
    "Which animal barks?": "dogs?",
}
"""Questions, and a pattern of the words that a right answer holds."""


def right_answers(model: Any, tokenizer: Any, name: str) -> int:
    """How many greedy answers hold the right word."""
    right = 0
    for question, words in QUESTIONS.items():
        answer = generate(model, tokenizer, question, ANSWER_TOKENS)
        is_right = re.search(rf"\b({words})\b", answer, re.IGNORECASE) is not None
        right += is_right
        say(f"{name}: {'right' if is_right else 'wrong'}: {question} {' '.join(answer.split())}")
    return right


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
        right = right_answers(model, tokenizer, name)
        first.setdefault("questions", right)
        yield Result(
            f"{name}, questions", right, f"of {len(QUESTIONS)}", "original", first["questions"]
        )
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
            yield Result(f"{each.name}, quality kept above chance", 100 * each.kept, "%")
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
