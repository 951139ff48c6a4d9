"""Demonstrations (few-shot examples) before a question: whole ones, and none that is tested.

lm-eval cuts a prompt that is longer than the model's window at its beginning, so that half an
example may be left. Here examples are left out until the prompt fits.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from regrow.common.errors import UserError

Arguments = tuple[Any, ...]
"""The arguments of a request of lm-eval."""


@dataclass
class Demonstrations:
    """What became of the demonstrations of a task.

    Attributes:
        wanted: Demonstrations before each question.
        tested: Demonstrations that are not used, since they are also tested.
        fewer: Questions that have fewer demonstrations than wanted.
        dropped: Demonstrations that these questions lack.
    """

    wanted: int = 0
    tested: int = 0
    fewer: int = 0
    dropped: int = 0


@contextmanager
def whole_demonstrations(
    task: Any, fits: Callable[[Sequence[Arguments]], bool]
) -> Iterator[Demonstrations]:
    """Context manager: the prompts of a task have as many demonstrations as fit.

    They are the first of those that lm-eval draws. Gives what became of them, which is complete
    when the prompts are built.

    Args:
        task: Of lm-eval, with the number of demonstrations that is wanted.
        fits: Whether the model reads all of the requests with these arguments.

    Raises:
        UserError: all demonstrations are also tested, or there is none.
    """
    found = Demonstrations(wanted=int(task.config.num_fewshot or 0))
    if not found.wanted or not hasattr(task, "sampler"):
        yield found
        return
    sampler = task.sampler
    all_of_them = list(sampler.fewshot_docs())
    usable = usable_demonstrations(task)
    found.tested = len(all_of_them) - len(usable)
    sampler.replace_df(usable)
    sampler.fewshot_indices = None
    in_one_prompt = min(found.wanted, len(usable))
    prompt = task.fewshot_context

    def longest(doc: Any, num_fewshot: int, **options: Any) -> Any:
        """The prompt with as many demonstrations as fit."""
        drawn = sampler.sample(
            n=min(num_fewshot, in_one_prompt),
            eval_doc=_excluded(task, doc, len(usable) - num_fewshot),
        )
        for count in range(len(drawn), -1, -1):
            task.sampler = _Drawn(drawn)
            text = prompt(doc, num_fewshot=count, **options)
            if count == 0 or fits(_arguments(task, doc, text)):
                break
        missing = num_fewshot - count
        found.dropped += missing
        found.fewer += missing > 0
        return text

    task.fewshot_context = longest
    try:
        yield found
    finally:
        del task.fewshot_context
        task.sampler = sampler
        sampler.replace_df(all_of_them)


def usable_demonstrations(task: Any) -> list[Any]:
    """The questions of a task that can be demonstrations, since they are not tested.

    `task`: of lm-eval, with a sampler.

    Raises UserError if there is none.
    """
    tested = {_content(task, doc) for doc in task.eval_docs}
    usable = [doc for doc in task.sampler.fewshot_docs() if _content(task, doc) not in tested]
    if not usable:
        raise UserError(
            f"{task.task_name}: has no demonstrations that are not also tested; give it `shots` 0",
            key="shots",
        )
    return usable


class _Drawn:
    """A sampler of lm-eval that gives the first of some demonstrations."""

    def __init__(self, docs: Sequence[Any]) -> None:
        self._docs = docs

    def sample(self, n: int, **_: Any) -> Sequence[Any]:
        return self._docs[:n]


def _excluded(task: Any, doc: Any, spare: int) -> Any:
    """The question that lm-eval leaves out when it draws; no other question is tested here.

    It draws one more then, so without it other demonstrations would be drawn.
    """
    split = getattr(getattr(task, "fewshot_cfg", None), "split", None)
    return doc if spare > 0 and split == task.config.test_split else None


def _arguments(task: Any, doc: Any, text: Any) -> list[Arguments]:
    requests = task.construct_requests(doc=doc, ctx=text, metadata=(task.task_name, 0, 1))
    return [each.args for each in (requests if isinstance(requests, list) else [requests])]


def _content(task: Any, doc: Any) -> str:
    """What makes two questions the same: their text, or all fields if it has none of its own."""
    text = task.doc_to_text(doc)
    return text if isinstance(text, str) else json.dumps(doc, sort_keys=True, default=str)
