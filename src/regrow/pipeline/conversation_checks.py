"""Check the conversations of a recipe against its model, before hours of work."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from regrow.common.errors import UserError
from regrow.corpus.reading import CONVERSATIONS
from regrow.corpus.sources import Corpus
from regrow.corpus.text import read_documents
from regrow.pipeline.recipe import Recipe

_AT_ONCE = 1_000
"""So many are tried at a time. What is left out of all of them is counted when a run begins."""


def check_conversations(
    recipe: Recipe, corpora: Mapping[str, Corpus], tokenizer: Any, config: Any
) -> None:
    """Raise UserError, with the stage, if a model can learn none of the conversations.

    They are read up to the first that it can learn. `corpora`: what each stage is trained on.
    `config`: of the original.
    """
    from regrow.objectives.conversations import prepare_conversations

    for stage in recipe.stages:
        if stage.recover is None or not stage.learns_answers:
            continue
        corpus, length = corpora[stage.name], stage.recover.row_length
        prepare = partial(
            prepare_conversations, tokenizer=tokenizer, config=config, row_length=length
        )
        try:
            _prepare_some(partial(corpus.read, corpus.paths), prepare)
        except UserError as error:
            raise UserError(str(error), key=f"stages: {stage.name}: recover") from None


def check_heldout_conversations(
    recipe: Recipe, aside: Collection[str], tokenizer: Any, config: Any
) -> None:
    """Raise UserError, with the key, if no conversation of a held-out file can be measured.

    `aside`: held-out texts that are put aside from the training text, by name. `config`: of the
    original.
    """
    found = [("data", recipe.data.heldout)] if recipe.reading.conversations else []
    found += [
        (f"stages: {stage.name}: data", stage.data.heldout)
        for stage in recipe.stages
        if stage.data is not None
    ]
    if not found:
        return
    from regrow.evaluation.answer_loss import LONGEST, MEASURED  # imports torch
    from regrow.objectives.conversations import prepare_conversations

    prepare = partial(
        prepare_conversations, tokenizer=tokenizer, config=config, row_length=LONGEST,
        limit=MEASURED,
    )  # fmt: skip
    for key, texts in found:
        for name, path in texts.items():
            if name in aside:
                continue
            try:
                _prepare_some(partial(read_documents, path, CONVERSATIONS), prepare)
            except UserError as error:
                raise UserError(f"{path}: {error}", key=f"{key}.heldout.{name}") from None


def _prepare_some(
    read: Callable[[], Iterable[str]], prepare: Callable[[Iterable[str]], Any]
) -> None:
    """Raise the error of `prepare` if it can use none of the conversations.

    They are tried some at a time. If none can be used, the error counts all.
    """
    documents = iter(read())
    while some := list(islice(documents, _AT_ONCE)):
        try:
            prepare(some)
        except UserError:
            continue
        return
    prepare(read())
