"""The held-out text of a recipe that names none: a part of its training text."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.put_aside import PutAside, put_aside, without
from regrow.corpus.text import read_documents
from regrow.corpus.token_store import is_store
from regrow.pipeline.ledger import HELDOUT_FILE
from regrow.pipeline.recipe import Data, Recipe

HELDOUT = "heldout"
"""The name of that text."""


def with_heldout_text(recipe: Recipe, out: Path) -> tuple[Recipe, PutAside | None]:
    """The recipe with a held-out text, and what is put aside for it; None if it names its own.

    The file of the text in the directory of the run, `out`, is not written yet. All text files of
    the training text are read twice. Token stores, and text that a model writes, are trained on as
    a whole.

    Raises UserError if the training text has no text file, or is too short.
    """
    if recipe.data.heldout:
        return recipe, None
    paths = [path for path in recipe.data.train_paths if not is_store(path)]
    if not paths:
        raise UserError(
            "missing; only a part of text files can be put aside, and data.train has none; name "
            "a held-out text",
            key="data.heldout",
        )

    def documents() -> Iterator[str]:
        for path in paths:
            yield from read_documents(path)

    try:
        found = put_aside(documents)
    except UserError as error:
        raise UserError(str(error), key="data.heldout") from None
    _check_sources(recipe.data, found)
    data: Data = recipe.data.model_copy(update={"heldout": {HELDOUT: out / HELDOUT_FILE}})
    return recipe.model_copy(update={"data": data}), found


def _check_sources(data: Data, aside: PutAside) -> None:
    """Raise UserError if a source has no text left to train on."""
    for source in data.sources:
        if source.model is not None or any(map(is_store, source.paths)):
            continue
        documents = chain.from_iterable(map(read_documents, source.paths))
        if next(without(documents, aside.remains), None) is None:
            raise UserError(
                f"the only document of {source.name} would be held out; name a held-out text",
                key="data.heldout",
            )
