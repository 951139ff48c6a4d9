"""From samples to instructions: which template, which options, which examples."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from regrow.instructions.config import FewShot
from regrow.instructions.language import LANGUAGES
from regrow.instructions.sample import Instruction, Message, Sample, Value, number_of
from regrow.instructions.tasks import CLOSED
from regrow.instructions.template import Template, with_examples

_SHUFFLED = CLOSED | {"text matching", "semantic analysis"}
"""Tasks whose options have no order of their own."""
_MOST_OPTIONS = 12
"""Options that are shown if they are the labels of a whole set."""
_MOST_LABELS = 500
_LONGEST_LABEL = 40
"""A set of more or longer answers has no labels."""
_KEPT_EXAMPLES = 64
"""Samples of each group from which examples are drawn."""
Group = tuple[str, str, str, tuple[str, ...]]


@dataclass
class Pool:
    """What is remembered of all samples: labels, and some samples as examples.

    What is kept depends on the samples and not on their order.

    Attributes:
        labels: The answers by source and task; None where there are too many.
        examples: The samples with the least draws, by group.
    """

    labels: dict[tuple[str, str], set[str] | None] = field(default_factory=dict)
    examples: dict[Group, dict[int, Sample]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, sample: Sample, draw: int, *, heldout: bool) -> None:
        """Remember a sample; one that is held out is no example."""
        if sample.messages:
            return
        if sample.task in CLOSED and "options" not in sample.fields:
            self._add_label((sample.source, sample.task), str(sample.fields.get("answer", "")))
        if heldout:
            return
        kept = self.examples[_group(sample)]
        if len(kept) < _KEPT_EXAMPLES or draw < max(kept):
            kept.setdefault(draw, sample)
            if len(kept) > _KEPT_EXAMPLES:
                del kept[max(kept)]

    def remove(self, draws: Set[int]) -> None:
        """Samples of these draws are no examples: they are nearly equal to others."""
        for kept in self.examples.values():
            for draw in draws & kept.keys():
                del kept[draw]

    def _add_label(self, where: tuple[str, str], label: str) -> None:
        labels = self.labels.setdefault(where, set())
        if labels is None:
            return
        labels.add(label)
        if len(label) > _LONGEST_LABEL or len(labels) > _MOST_LABELS:
            self.labels[where] = None

    def options(
        self, sample: Sample, draw: int, seed: int, order: int | None = None
    ) -> tuple[str, ...] | None:
        """The options of a sample, in the order they are shown; None if it has none.

        `draw`: of the sample. `order`: of the sample whose example it is, so that its options
        stand in the same order.
        """
        given = sample.fields.get("options")
        if isinstance(given, tuple):
            kept = sample.task not in _SHUFFLED
            return given if kept else _shuffled(given, draw if order is None else order, seed)
        labels = self.labels.get((sample.source, sample.task))
        answer = sample.fields.get("answer")
        if not labels or len(labels) < 2 or answer not in labels:
            return None
        others = _shuffled(sorted(labels - {str(answer)}), draw, seed)
        return _shuffled((str(answer), *others[: _MOST_OPTIONS - 1]), draw, seed)


def _group(sample: Sample) -> Group:
    return sample.source, sample.task, sample.language, tuple(sorted(sample.fields))


def _shuffled(texts: Sequence[str], draw: int, seed: int) -> tuple[str, ...]:
    return tuple(sorted(texts, key=lambda text: number_of(seed, f"option {text}", str(draw))))


class Renderer:
    """Makes instructions from samples. What it makes depends on the sample and the seed alone."""

    def __init__(
        self, templates: Sequence[Template], pool: Pool, few_shot: FewShot, seed: int
    ) -> None:
        self._by_task: dict[tuple[str, str], list[Template]] = defaultdict(list)
        for template in templates:
            for task in template.takes:
                self._by_task[task, template.language].append(template)
        self._pool, self._few_shot, self._seed = pool, few_shot, seed

    def instructions(self, sample: Sample, draw: int) -> Iterator[Instruction]:
        """The instruction of a sample, with fewer and fewer examples; none if no template fits.

        `draw`: of the sample, 64 bits.
        """
        if sample.messages:
            yield Instruction(sample, sample.messages, sample.task, sample.language)
            return
        fields = self._with_options(sample, draw)
        fitting = [each for each in self._templates(sample) if each.fits(sample.task, fields)]
        if not fitting:
            return
        template = fitting[number_of(self._seed, "template", str(draw)) % len(fitting)]
        prompt, answer = template.render(fields)
        if not prompt or not answer:
            return
        examples = self._examples(sample, template, draw)
        for count in range(len(examples), -1, -1):
            asked = with_examples(
                examples[:count], prompt, template.language, leads_on=template.leads_on
            )
            messages = (Message("user", asked), Message("assistant", answer))
            yield Instruction(
                sample, messages, template.task, template.language, template.id, count
            )

    def _with_options(
        self, sample: Sample, draw: int, order: int | None = None
    ) -> Mapping[str, Value]:
        options = self._pool.options(sample, draw, self._seed, order)
        return sample.fields if options is None else {**sample.fields, "options": options}

    def _templates(self, sample: Sample) -> Iterator[Template]:
        """Those of the language; a translation may be asked for in both."""
        both = sample.task == "translation"
        for language in LANGUAGES if both else (sample.language,):
            yield from self._by_task.get((sample.task, language), ())

    def _examples(self, sample: Sample, template: Template, draw: int) -> list[tuple[str, str]]:
        """Questions and answers of other subjects, by the same template."""
        number = number_of(self._seed, "examples", str(draw))
        if number / 2**64 >= self._few_shot.share:
            return []
        wanted = 1 + number_of(self._seed, "how many examples", str(draw)) % self._few_shot.most
        kept = self._pool.examples.get(_group(sample), {})
        order = sorted(kept)
        first = number_of(self._seed, "first example", str(draw)) % max(1, len(order))
        found: list[tuple[str, str]] = []
        subjects = {sample.subject}
        for other in order[first:] + order[:first]:
            each = kept[other]
            fields = self._with_options(each, other, draw)
            if other == draw or each.subject in subjects or not template.fits(each.task, fields):
                continue
            subjects.add(each.subject)
            found.append(template.render(fields))
            if len(found) == wanted:
                break
        return found
