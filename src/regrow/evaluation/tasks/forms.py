"""Two forms of a multiple-choice question: its options by letter, or by their likelihood.

In the form `letter`, the prompt lists the options with letters, and the model chooses a letter. In
the form `likelihood`, the prompt is the question alone, and the model's likelihood of each option's
text decides. Both are used in the literature: MMLU is asked by letter, and PIQA by likelihood.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from regrow.common.errors import UserError

Mode = Literal["letter", "likelihood"]
"""How the options of a question are given to a model."""

PromptForm = Literal["auto", "plain", "openba"]
"""How an encoder-decoder reads a prompt. `auto` takes `openba` for an OpenBA, and if the tokenizer
has `<S>`."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_ANSWER_ZH = "答案："  # noqa: RUF001
_Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """How the questions of a data set are asked in both forms.

    Attributes:
        question: A question -> its text, without options.
        options: A question -> the texts of its options.
        gold: A question -> the index of the right option.
        answer: The last line of a prompt.
        free: Subsets whose questions have no options. They are asked in the task's own form.
    """

    question: Callable[[_Doc], str]
    options: Callable[[_Doc], list[str]]
    gold: Callable[[_Doc], int]
    answer: str = "Answer:"
    free: frozenset[str] = frozenset()


def settings_of(dataset: str, subset: str, mode: Mode) -> dict[str, Any] | None:
    """The settings of a task that asks its questions in this form; None if it has no options.

    They replace those in the file of the task.

    Raises:
        UserError: the data set is not one of `FORMS`.
    """
    if dataset not in FORMS:
        raise UserError(
            f"questions of {dataset} are asked in their task's own form; only those of "
            f"{', '.join(FORMS)} can be asked in another",
            key="mode",
        )
    form = FORMS[dataset]
    if subset in form.free:
        return None

    def with_letters(doc: _Doc) -> str:
        lines = [
            f"{letter}. {text}"
            for letter, text in zip(letters(doc), form.options(doc), strict=True)
        ]
        return "\n".join([form.question(doc), *lines, form.answer])

    def letters(doc: _Doc) -> list[str]:
        count = len(form.options(doc))
        if count > len(LETTERS):
            raise UserError(
                f"{dataset}: a question has {count} options, more than there are letters; give "
                f"`mode` likelihood: {form.question(doc)[:60]!r}"
            )
        return [*LETTERS[:count]]

    by_letter = mode == "letter"
    return {
        "output_type": "multiple_choice",
        "doc_to_text": with_letters
        if by_letter
        else lambda doc: f"{form.question(doc)}\n{form.answer}",
        "doc_to_choice": letters if by_letter else form.options,
        "doc_to_target": form.gold,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in (("acc",) if by_letter else ("acc", "acc_norm"))
        ],
        "target_delimiter": " ",
        **dict.fromkeys(("generation_kwargs", "filter_list", "process_results", "gen_prefix")),
    }


def _turned(doc: _Doc) -> list[str]:
    """SciQ's options, of which the right one is always the last, in an order that varies."""
    options = [
        doc[name] for name in ("distractor1", "distractor2", "distractor3", "correct_answer")
    ]
    first = zlib.crc32(doc["question"].encode()) % len(options)
    return options[first:] + options[:first]


_OPTIONS = re.compile(r"\n?Options:\n")
_OPTION = re.compile(r"^(?:\([A-Z]\)|-) ?", re.MULTILINE)


def _bbh_parts(doc: _Doc) -> tuple[str, list[str]]:
    question, _, listed = doc["input"].partition(
        match[0] if (match := _OPTIONS.search(doc["input"])) else "\0"
    )
    return question, [text.strip() for text in _OPTION.split(listed)[1:]]


def _bbh_gold(doc: _Doc) -> int:
    target, options = doc["target"].strip(), _bbh_parts(doc)[1]
    number = (
        LETTERS.find(target[1]) if re.fullmatch(r"\([A-Z]\)", target) else options.index(target)
    )
    if number >= len(options):
        raise UserError(f"BBH: the answer {target} is none of the options: {doc['input'][:60]!r}")
    return number


FORMS: Mapping[str, Form] = {
    "baber/piqa": Form(
        lambda doc: f"Question: {doc['goal']}",
        lambda doc: [doc["sol1"], doc["sol2"]],
        lambda doc: int(doc["label"]),
    ),
    "allenai/ai2_arc": Form(
        lambda doc: f"Question: {doc['question']}",
        lambda doc: list(doc["choices"]["text"]),
        lambda doc: int(doc["choices"]["label"].index(doc["answerKey"])),
    ),
    "allenai/sciq": Form(
        lambda doc: f"{doc['support'].lstrip()}\nQuestion: {doc['question']}",
        _turned,
        lambda doc: _turned(doc).index(doc["correct_answer"]),
    ),
    "aps/super_glue/boolq": Form(
        lambda doc: f"{doc['passage']}\nQuestion: {doc['question']}?",
        lambda _: ["no", "yes"],
        lambda doc: int(doc["label"]),
    ),
    "EleutherAI/logiqa": Form(
        lambda doc: f"Passage: {doc['context']}\nQuestion: {doc['question']}",
        lambda doc: list(doc["options"]),
        lambda doc: "abcd".index(doc["label"].strip()),
    ),
    "cais/mmlu": Form(
        lambda doc: str(doc["question"].strip()),
        lambda doc: list(doc["choices"]),
        lambda doc: int(doc["answer"]),
    ),
    "ceval/ceval-exam": Form(
        lambda doc: str(doc["question"].strip()),
        lambda doc: [doc[letter] for letter in "ABCD"],
        lambda doc: "ABCD".index(doc["answer"]),
        _ANSWER_ZH,
    ),
    "haonan-li/cmmlu": Form(
        lambda doc: str(doc["Question"].strip()),
        lambda doc: [doc[letter] for letter in "ABCD"],
        lambda doc: "ABCD".index(doc["Answer"]),
        _ANSWER_ZH,
    ),
    "SaylorTwift/bbh": Form(
        lambda doc: _bbh_parts(doc)[0],
        lambda doc: _bbh_parts(doc)[1],
        _bbh_gold,
        free=frozenset({
            "boolean_expressions", "dyck_languages", "multistep_arithmetic_two", "object_counting",
            "sports_understanding", "web_of_lies", "word_sorting",
        }),
    ),
}  # fmt: skip
"""The data sets whose questions can be asked in both forms, by their name on the hub."""
