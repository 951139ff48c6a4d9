"""The share of a model's scores above chance that another model keeps, and how sure that is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from regrow.evaluation.significance import AnsweredPart, interval_of_share

Marks: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""The marks of both models on the same questions, in the same order."""


@dataclass(frozen=True)
class ChanceScore:
    """The score on a task, or on a group as one task, beside that of random guesses.

    Attributes:
        value, chance: The score, and that of random guesses, in the same unit.
        error: The standard error of the score; None if it is not known.
    """

    value: float
    chance: float
    error: float | None

    @property
    def is_above_chance(self) -> bool:
        """Whether the score is above chance beyond doubt: by more than two standard errors."""
        return self.error is not None and self.value - self.chance > 2 * self.error


@dataclass(frozen=True)
class QualityKept:
    """The share of the original's score above chance that is left, over all tasks together.

    Attributes:
        share: 1 if nothing is lost, 0 if the result guesses.
        interval: The 95% confidence interval, by the paired bootstrap over the questions of each
            task that counts; None if one of these has no marks of single questions, or as in
            `regrow.evaluation.significance.interval_of_share`.
    """

    share: float
    interval: tuple[float, float] | None = None


def counted_once(tasks: Iterable[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Groups, and the tasks that are in none of them, so that each task counts once.

    Of groups that hold each other, or share a task, the largest counts.

    Args:
        tasks: The names of tasks.
        groups: The names of the tasks of each group.
    """
    taken: set[str] = set()
    found = []
    for name, members in sorted(groups.items(), key=lambda pair: -len(pair[1])):
        if taken.isdisjoint(members):
            found.append(name)
            taken.update(members)
    return [*found, *(task for task in tasks if task not in taken)]


def quality_kept(
    original: Mapping[str, ChanceScore],
    result: Mapping[str, float],
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
    marks: Mapping[str, Marks] = MappingProxyType({}),
) -> QualityKept | None:
    """What is left of the original's scores above chance. A group counts as one task.

    Tasks on which the original is not above chance beyond doubt are left out: there is nothing to
    keep, and what is above by luck is lost by luck.

    Args:
        original: The scores of tasks and groups whose chance is known.
        result: The scores of the other model on the same tasks and groups.
        groups: The names of the tasks of each group.
        marks: Of the questions of tasks and groups. Without those of a task or group that counts,
            the interval is not known.

    Returns:
        None if the original does not score above chance on any task.
    """
    tasks = (name for name in original if name not in groups)
    names = counted_once(tasks, {name: groups[name] for name in groups if name in original})
    known = {name: original[name] for name in names if original[name].is_above_chance}
    if not known:
        return None
    before = sum(score.value - score.chance for score in known.values())
    after = sum(result[name] - score.chance for name, score in known.items())
    interval = None
    if known.keys() <= marks.keys():
        interval = interval_of_share(
            AnsweredPart(
                *marks[name], score.value - score.chance, result[name] - score.chance
            )
            for name, score in known.items()
        )  # fmt: skip
    return QualityKept(after / before, interval)
