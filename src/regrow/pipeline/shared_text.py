"""Text that is trained on and held out at once: its loss does not say what a model has learned."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.reading import CONVERSATIONS, Reading
from regrow.corpus.text import document_hash, read_documents
from regrow.corpus.text_files import text_files
from regrow.corpus.token_store import is_store
from regrow.pipeline.recipe import Recipe


@dataclass(frozen=True)
class TrainedTexts:
    """What is trained on, and the held-out texts beside it.

    Attributes:
        key: Where both are in the recipe: `data`, or that of a stage.
        train: Paths of the training text.
        heldout: Held-out texts, by name.
        reading: How all of them are read.
    """

    key: str
    train: Sequence[Path]
    heldout: Mapping[str, Path]
    reading: Reading


def trained_texts(recipe: Recipe) -> list[TrainedTexts]:
    """The texts of all recoveries: those of the recipe, and those of stages that have their own."""
    found = []
    data = recipe.data
    if any(stage.recover is not None and stage.data is None for stage in recipe.stages):
        found.append(TrainedTexts("data", data.train_paths, data.heldout, recipe.reading))
    for stage in recipe.stages:
        if (own := stage.data) is not None:
            key = f"stages: {stage.name}: data"
            found.append(TrainedTexts(key, own.train, own.heldout, CONVERSATIONS))
    return found


def check_heldout_files(texts: TrainedTexts) -> None:
    """Raise UserError, with the key, if a held-out file is also a file of the training text.

    Files are the same if their bytes are.
    """
    trained = _text_files(texts)
    for name, path in ((n, file) for n, text in texts.heldout.items() for file in text_files(text)):
        for other in trained:
            if _same_bytes(path, other):
                raise UserError(
                    f"{path}: the same text as {other} in {texts.key}.train; give a text that is "
                    "not trained on",
                    key=f"{texts.key}.heldout.{name}",
                )


def say_shared_documents(texts: TrainedTexts, say: Callable[[str], None]) -> None:
    """Say how many documents are trained on and held out at once. All of the text is read.

    Token stores, and text that a model has yet to write, are not compared.
    """
    for name, (shared, documents) in _shared(texts).items():
        if shared:
            say(
                f"{texts.key}.heldout.{name}: {shared:,} of {documents:,} documents are in "
                f"{texts.key}.train too, so its loss is too low after a training"
            )


def _text_files(texts: TrainedTexts) -> list[Path]:
    paths = (path for path in texts.train if not is_store(path))
    return [file for path in paths for file in text_files(path)]


def _same_bytes(one: Path, other: Path) -> bool:
    return one.samefile(other) or (
        one.stat().st_size == other.stat().st_size and _sha256(one) == _sha256(other)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shared(texts: TrainedTexts) -> dict[str, tuple[int, int]]:
    """For each held-out text: the number of documents that are trained on too, and of all.

    Memory does not grow with the training text.
    """
    hashes = {
        name: [document_hash(text) for text in read_documents(path, texts.reading)]
        for name, path in texts.heldout.items()
    }
    wanted = {each for those in hashes.values() for each in those}
    found: set[bytes] = set()
    for path in _text_files(texts):
        found |= {
            each
            for text in read_documents(path, texts.reading)
            if (each := document_hash(text)) in wanted
        }
    return {
        name: (sum(each in found for each in those), len(those)) for name, those in hashes.items()
    }
