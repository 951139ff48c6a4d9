"""Compare models by their answers to the same questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from regrow.common.errors import UserError
from regrow.evaluation.quality_kept import ChanceScore, QualityKept, quality_kept
from regrow.evaluation.significance import PairedTest, paired_test
from regrow.evaluation.speed import Speed
from regrow.evaluation.task_results import Evaluated, GroupScore, TaskScore


@dataclass(frozen=True)
class Difference:
    """Two models on a task or a group.

    Attributes:
        name: Of the task or group.
        metric: The main metric.
        first, second: The values of both models.
        test: Of the questions of both; None if the metric has no value for a single question.
    """

    name: str
    metric: str
    first: float
    second: float
    test: PairedTest | None


@dataclass(frozen=True)
class Compared:
    """A model against the first one.

    Attributes:
        name: As the user named the model.
        differences: Groups first, then tasks.
        kept: What this model has of the first model's score above chance; None if no task has
            options, or the first model is above chance beyond doubt on none.
    """

    name: str
    differences: tuple[Difference, ...]
    kept: QualityKept | None


@dataclass(frozen=True)
class Comparison:
    """Models on the same questions.

    Attributes:
        models: The scores of all models, the first of which the others are compared with.
        compared: The others.
        speeds: The speed and the memory of greedy generation of each model, measured in turns; None
            if they were not measured.
    """

    models: tuple[Evaluated, ...]
    compared: tuple[Compared, ...]
    speeds: tuple[Speed, ...] | None = None


def compare_scores(
    models: Sequence[Evaluated], speeds: Sequence[Speed] | None = None
) -> Comparison:
    """Compare the first of some models with all others.

    Raises UserError if they were not asked the same questions.
    """
    first, *others = models
    return Comparison(
        models=tuple(models),
        compared=tuple(
            Compared(other.name, differences(first, other), kept_of(first, other))
            for other in others
        ),
        speeds=None if speeds is None else tuple(speeds),
    )


def kept_of(first: Evaluated, other: Evaluated) -> QualityKept | None:
    """`quality_kept` of another model, over all tasks with a known chance; a group is one task."""
    result = {score.task: score.value for score in other.tasks}
    result |= {group.group: group.value for group in other.groups}
    groups = {group.group: group.tasks for group in first.groups}
    marks = {}
    scores, theirs = ({each.task: each for each in model.tasks} for model in (first, other))
    for name, tasks in {**{task: (task,) for task in scores}, **groups}.items():
        before, after = _together(scores, tasks), _together(theirs, tasks)
        if before and [*before] == [*after]:
            marks[name] = ([*before.values()], [*after.values()])
    return quality_kept(_chance_scores(first), result, groups, marks)


def _chance_scores(model: Evaluated) -> dict[str, ChanceScore]:
    """The scores of all tasks and groups whose questions have options."""
    named: list[tuple[str, TaskScore | GroupScore]] = [
        *((score.task, score) for score in model.tasks),
        *((group.group, group) for group in model.groups),
    ]
    return {
        name: ChanceScore(score.value, score.chance, score.error)
        for name, score in named
        if score.chance is not None
    }


def differences(first: Evaluated, other: Evaluated) -> tuple[Difference, ...]:
    """The differences of two models on their groups and tasks.

    Raises UserError if they were not asked the same questions.
    """
    theirs = {score.task: score for score in other.tasks}
    of_tasks = [_difference(score, theirs[score.task]) for score in first.tasks]
    by_name = {score.task: score for score in first.tasks}
    values = {group.group: group.value for group in other.groups}
    of_groups = [
        Difference(
            group.group, group.metric, group.value, values[group.group],
            _test(_together(by_name, group.tasks), _together(theirs, group.tasks)),
        )
        for group in first.groups
    ]  # fmt: skip
    return (*of_groups, *of_tasks)


def _difference(first: TaskScore, second: TaskScore) -> Difference:
    has_both = bool(first.marks and second.marks)  # one may lack a mark that is no number
    is_same = [*first.marks] == [*second.marks] if has_both else first.questions == second.questions
    if not is_same:
        raise UserError(f"{first.task}: the models were not asked the same questions")
    metric = first.metric
    if second.metric != metric:
        raise UserError(
            f"{first.task}: the prompts of one model have OpenBA's form, and those of the other "
            "have not; give `prompt` plain"
        )
    test = _test(first.marks, second.marks)
    return Difference(first.task, metric, first.value, second.value, test)


def _test(first: Mapping[str, float], second: Mapping[str, float]) -> PairedTest | None:
    if not first or [*first] != [*second]:
        return None
    return paired_test([*first.values()], [*second.values()])


def _together(scores: Mapping[str, TaskScore], tasks: Sequence[str]) -> dict[str, float]:
    """The marks of all questions of some tasks; none if a task has no marks."""
    if not all(scores[task].marks for task in tasks):
        return {}
    return {f"{task}/{key}": mark for task in tasks for key, mark in scores[task].marks.items()}
