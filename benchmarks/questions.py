"""How many simple questions models answer rightly: 20 of this file, and 150 of `questions.tsv`.

Each question has a pattern of the words that a right answer holds, and does not hold them itself.
Answers are greedy and have 24 tokens at most. The first model is the original, with which the
others are compared.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from common import Result, parser, say, show

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.evaluation.generation import generate

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
FILE = Path(__file__).with_name("questions.tsv")


def questions() -> list[Mapping[str, str]]:
    """The lists of questions, with the pattern of each."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [QUESTIONS, dict(line.split("\t") for line in lines)]


def holds(pattern: str, text: str) -> bool:
    return re.search(rf"\b({pattern})\b", text, re.IGNORECASE) is not None


def right_answers(
    model: Any, tokenizer: Any, name: str, asked: Sequence[Mapping[str, str]]
) -> Iterator[tuple[str, int]]:
    """Of each list, how many there are ("of 20") and how many answers are right."""
    for each in asked:
        right = 0
        for question, pattern in each.items():
            answer = generate(model, tokenizer, question, ANSWER_TOKENS)
            is_right = holds(pattern, answer)
            right += is_right
            say(
                f"{name}: {'right' if is_right else 'wrong'}: {question} {' '.join(answer.split())}"
            )
        yield f"of {len(each)}", right


def results(models: list[str], asked: Sequence[Mapping[str, str]]) -> Iterator[Result]:
    first: dict[str, int] = {}
    for name in models:
        directory = ModelDirectory(resolve_model(name, None, say))
        for label, right in right_answers(directory.load(), directory.tokenizer, name, asked):
            first.setdefault(label, right)
            yield Result(f"{name}, questions {label}", right, "right", "original", first[label])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("models", nargs="+", help="directories, GGUF files or hub ids")
    options = arguments.parse_args()
    transformers.utils.logging.disable_progress_bar()
    asked = questions()[: 1 if options.quick else None]
    show(list(results(options.models, asked)), as_json=options.json)


if __name__ == "__main__":
    main()
