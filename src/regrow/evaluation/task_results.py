"""What an evaluation on tasks finds, as data. Importing this module imports no library."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A number over the questions of a task.

    Attributes:
        value: The number, as lm-eval gives it: an accuracy from 0 to 1, a perplexity, ...
        error: Its standard error; None if there is none.
    """

    value: float
    error: float | None = None


_SHARES = ("acc", "exact_match", "f1", "em", "mcc")


def is_share(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent: `acc_norm`, `f1`, ..."""
    return metric.replace("_", " ").replace(",", " ").split()[0] in _SHARES or metric.startswith(
        "exact_match"
    )


@dataclass(frozen=True)
class TaskScore:
    """The answers of a model to the questions of a task.

    Attributes:
        task: The name of the task in lm-eval.
        metric: The name of the main metric: `acc_token` for OpenBA's prompts with options by
            likelihood, as in its report; else `acc_norm` or `bits_per_byte` if the task has it,
            else the first of the task.
        metrics: All metrics by name. `acc` takes the option with the greatest log-likelihood,
            `acc_norm` divides it by the characters of the option, and `acc_token` by its tokens.
        higher_is_better: Of the main metric.
        questions: How many questions there are.
        marks: The main metric of each question, by the question's hash; empty if it has none for a
            single question, such as a perplexity.
        chance: The main metric of random guesses; None if there are no options, or the task has a
            function of its own for its scores.
        predicted: The share of the questions for which each option is chosen, by letter. If nearly
            all are one letter, the model did not read the questions.
        shots: Demonstrations before each question.
        fewer_shots: Questions with fewer of them, since the model's window is too short.
        dropped_shots: Demonstrations that these questions lack.
        shortened: Prompts that do not fit even without demonstrations, so that their beginning is
            left out.
        lost: Bytes that the tokens of a text do not spell, as a share of all bytes; for tasks that
            measure texts, else None.
        unknown: Unknown tokens as a share of all tokens of such texts.
        content: A hash of all questions, with the prompts as they were asked.
    """

    task: str
    metric: str
    metrics: Mapping[str, Metric]
    higher_is_better: bool
    questions: int
    marks: Mapping[str, float] = field(repr=False)
    chance: float | None
    predicted: Mapping[str, float]
    shots: int = 0
    fewer_shots: int = 0
    dropped_shots: int = 0
    shortened: int = 0
    lost: float | None = None
    unknown: float | None = None
    content: str = ""

    @property
    def value(self) -> float:
        """The main metric."""
        return self.metrics[self.metric].value

    @property
    def error(self) -> float | None:
        """The standard error of the main metric."""
        return self.metrics[self.metric].error


@dataclass(frozen=True)
class GroupScore:
    """The mean over all questions of the tasks of a group, such as MMLU.

    Attributes:
        group: Its name in lm-eval.
        metric: The main metric of its tasks.
        value, error, chance: As in `TaskScore`.
        questions: Of all its tasks.
        tasks: The names of its tasks.
    """

    group: str
    metric: str
    value: float
    error: float | None
    chance: float | None
    questions: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Evaluated:
    """A model and its scores.

    Attributes:
        name: As the user named the model.
        directory: Its directory.
        fingerprint: The hash of its weights.
        parameters: All parameters.
        weight_bytes: Bytes of its weights.
        precision: Of the matrix products: `bf16` or `fp32`; empty if no question was asked.
        tasks: In the order in which they were named.
        groups: Groups among what was named.
        computed: Answers that were computed; the others were in the cache.
        cached: Answers that were in the cache.
        results: The results in the format of lm-eval.
    """

    name: str
    directory: str
    fingerprint: str
    parameters: int
    weight_bytes: int
    precision: str
    tasks: tuple[TaskScore, ...]
    groups: tuple[GroupScore, ...]
    computed: int
    cached: int
    results: Mapping[str, Any] = field(repr=False)

    def score(self, task: str) -> TaskScore:
        """The score on a task. Raises KeyError if it was not evaluated."""
        for found in self.tasks:
            if found.task == task:
                return found
        raise KeyError(task)
