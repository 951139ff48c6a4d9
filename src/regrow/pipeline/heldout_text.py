"""The held-out text of a recipe that names none: a part of its training text."""

from collections.abc import Iterator
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.put_aside import PutAside, put_aside
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
    data: Data = recipe.data.model_copy(update={"heldout": {HELDOUT: out / HELDOUT_FILE}})
    return recipe.model_copy(update={"data": data}), found
