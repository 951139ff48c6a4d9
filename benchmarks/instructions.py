"""What learning the answers of conversations gives: loss on held-out answers, and tasks followed.

`--seq2seq` is an encoder-decoder, and `--data` files of conversations (docs/training.md). The
model learns them with `regrow train --objective instructions`, and a part of them is held out. The
peer is the model before.

`--model` is a decoder with a chat template, such as a model that was cut. It learns four simple
tasks, which are written here, and is then asked about words and numbers that it did not see in
training. An answer keeps the format if it is one of those that the task allows, such as `animal`,
`food` or `tool`; capitals and a full stop at the end do not count. It is right if it is the right
one. The peer is the model before. With `--lora RANK` a second model is trained by LoRA.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import Goal, Result, parser, say, show

import regrow
from regrow.models.loading import load_model, load_tokenizer
from regrow.tokenizers.chat_rendering import render_chat

ANSWER_TOKENS = 8
KINDS = {
    "animal": "horse cow sheep goat dog cat wolf bear lion tiger rabbit mouse eagle duck frog "
    "snake whale shark spider monkey",
    "food": "bread cheese rice soup apple banana carrot potato butter honey cake meat pasta salad "
    "egg onion tomato grape lemon sugar",
    "tool": "hammer saw drill axe shovel rake wrench pliers screwdriver chisel ladder broom needle "
    "scissors spade crowbar file clamp ruler brush",
}
FEELINGS = {
    "positive": "great lovely excellent wonderful pleasant superb brilliant delightful amazing "
    "fine",
    "negative": "awful terrible boring dreadful horrible poor disappointing unpleasant nasty bad",
}
THINGS = [
    "film",
    "hotel",
    "meal",
    "book",
    "concert",
    "lecture",
    "journey",
    "game",
    "house",
    "garden",
]
NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Ida",
    "Jack",
    "Kate",
    "Leo",
    "Mary",
    "Nick",
    "Olga",
    "Paul",
]


@dataclass(frozen=True)
class Question:
    """A question, its answer, and the answers that its format allows."""

    prompt: str
    answer: str
    allowed: tuple[str, ...]


Draw = Callable[[random.Random, bool], Question]
"""(random numbers, whether it is held out) -> a question."""


def _word(draw: random.Random, words: str, heldout: bool) -> str:
    """One of the words; every fourth is held out."""
    return draw.choice([w for n, w in enumerate(words.split()) if (n % 4 == 3) == heldout])


def _kind(draw: random.Random, heldout: bool) -> Question:
    answer = draw.choice([*KINDS])
    word = _word(draw, KINDS[answer], heldout)
    prompt = f"Is this an animal, a food or a tool? Answer with one word.\n{word}"
    return Question(prompt, answer, tuple(KINDS))


def _feeling(draw: random.Random, heldout: bool) -> Question:
    answer = draw.choice([*FEELINGS])
    word, thing = _word(draw, FEELINGS[answer], heldout), draw.choice(THINGS)
    text = draw.choice([f"The {thing} was {word}.", f"What a {word} {thing}!"])
    prompt = f"Is this positive or negative? Answer with one word.\n{text}"
    return Question(prompt, answer, tuple(FEELINGS))


def _larger(draw: random.Random, heldout: bool) -> Question:
    numbers = [n for n in range(10, 100) if (n % 4 == 3) == heldout]
    one, other = draw.sample(numbers, 2)
    prompt = f"Which number is larger? Answer with the number.\n{one} or {other}"
    return Question(prompt, str(max(one, other)), (str(one), str(other)))


def _last(draw: random.Random, heldout: bool) -> Question:
    names = draw.sample([n for i, n in enumerate(NAMES) if (i % 4 == 3) == heldout], 3)
    prompt = f"Which name comes last? Answer with the name.\n{', '.join(names)}"
    return Question(prompt, names[-1], tuple(names))


TASKS: Mapping[str, Draw] = {
    "kind": _kind, "feeling": _feeling, "larger": _larger, "last": _last
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Questions of each task that are trained on and asked, and the tokens of a training."""

    train: int
    asked: int
    tokens: int


FULL = Scale(300, 48, 120_000)
QUICK = Scale(150, 24, 20_000)


def questions(of: str, count: int, *, heldout: bool) -> list[Question]:
    """Questions of one task, always the same; held-out ones share no word with the others."""
    draw = random.Random(f"{of} {heldout}")
    return [TASKS[of](draw, heldout) for _ in range(count)]


def write_tasks(path: Path, count: int) -> Path:
    """Questions of all tasks as conversations."""
    lines = [
        {"messages": [{"role": "user", "content": each.prompt},
                      {"role": "assistant", "content": each.answer}]}
        for of in TASKS
        for each in questions(of, count, heldout=False)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _answers(model: Any, tokenizer: Any, given: Sequence[Question]) -> list[str]:
    """Greedy answers to some questions, written together."""
    texts = [
        render_chat(tokenizer, [{"role": "user", "content": q.prompt}], add_generation_prompt=True)
        for q in given
    ]
    batch = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    with torch.no_grad():
        ids = model.generate(**batch, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    new = ids[:, batch["input_ids"].shape[1] :]
    found: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
    return found


def ask(model: Path, asked: int) -> dict[str, tuple[float, float]]:
    """For each task, the shares of answers that keep the format, and that are right."""
    loaded, tokenizer = load_model(model), load_tokenizer(model)
    found = {}
    for of in TASKS:
        kept = right = 0
        given = questions(of, asked, heldout=True)
        for question, written in zip(given, _answers(loaded, tokenizer, given), strict=True):
            answer = written.strip().removesuffix(".").lower()
            kept += answer in [each.lower() for each in question.allowed]
            right += answer == question.answer.lower()
        found[of] = (kept / asked, right / asked)
        say(f"{model}: {of}: format {found[of][0]:.0%}, right {found[of][1]:.0%}")
    return found


def train(model: Path, out: Path, data: Sequence[Path], settings: Mapping[str, Any]) -> Any:
    recipe = regrow.training_recipe(model, [*data], objective="instructions", track=[], **settings)
    return regrow.train(recipe, out)


def tasks(model: Path, place: Path, scale: Scale, lora: int | None) -> Iterator[Result]:
    """Formats kept and answers right, before and after."""
    data = [write_tasks(place / "tasks.jsonl", scale.train)]
    before = ask(model, scale.asked)
    ways: dict[str, dict[str, Any]] = {"": {"learning_rate": 1e-4}}
    if lora is not None:
        ways[f", LoRA of rank {lora}"] = {"learning_rate": 1e-3, "lora": {"rank": lora}}
    for way, settings in ways.items():
        out = place / f"tasks{way}"
        result = train(model, out, data, {"tokens": scale.tokens, "row_length": 256, **settings})
        after = ask(out / "model", scale.asked)
        yield Result(f"seconds of training{way}", result.seconds, "s")
        for of in TASKS:
            for number, what in enumerate(("format kept", "right")):
                value, was = 100 * after[of][number], 100 * before[of][number]
                goal = Goal("value", ">=", 90.0) if number == 0 else None
                yield Result(f"{of}: {what}{way}", value, "%", "before", was, goal)


def held_out_answers(
    model: Path, place: Path, data: Sequence[Path], tokens: int
) -> Iterator[Result]:
    """The loss on held-out answers of an encoder-decoder, before and after."""
    settings = {"tokens": tokens, "row_length": 512, "learning_rate": 1e-3}
    result = train(model, place / "answers", data, settings)
    (_, before), *_, (_, after) = result.heldout
    yield Result(
        f"held-out answers, {result.tokens:,} tokens", after, result.unit, "before", before,
        Goal("ratio", "<=", 0.98),
    )  # fmt: skip
    yield Result("seconds of training", result.seconds, "s")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seq2seq", type=Path, metavar="DIR", help="an encoder-decoder")
    options.add_argument("--data", type=Path, nargs="*", default=[], help="files of conversations")
    options.add_argument("--model", type=Path, metavar="DIR", help="a decoder that chats")
    options.add_argument("--lora", type=int, metavar="RANK", help="also train --model by LoRA")
    given: argparse.Namespace = options.parse_args()
    if bool(given.seq2seq) != bool(given.data) or not (given.seq2seq or given.model):
        options.error("give --seq2seq with --data, or --model")
    torch.set_num_threads(1)
    scale = QUICK if given.quick else FULL
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as place:
        if given.seq2seq:
            results += held_out_answers(given.seq2seq, Path(place), given.data, scale.tokens)
        if given.model:
            results += tasks(given.model, Path(place), scale, given.lora)
    show(results, as_json=given.json)


if __name__ == "__main__":
    main()
