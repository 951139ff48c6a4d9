"""Text that is trained on and held out at once: its loss does not say what a model has learned."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.text import document_hash, read_documents
from regrow.corpus.text_files import text_files
from regrow.corpus.token_store import is_store
from regrow.pipeline.recipe import Data


def check_heldout_files(data: Data) -> None:
    """Raise UserError, with the key, if a held-out file is also a file of the training text.

    Files are the same if their bytes are.
    """
    trained = _text_files(data)
    for name, path in ((n, file) for n, text in data.heldout.items() for file in text_files(text)):
        for other in trained:
            if _same_bytes(path, other):
                raise UserError(
                    f"{path}: the same text as {other} in data.train; give a text that is not "
                    "trained on",
                    key=f"data.heldout.{name}",
                )


def say_shared_documents(data: Data, say: Callable[[str], None]) -> None:
    """Say how many documents are trained on and held out at once. All of the text is read.

    Token stores, and text that a model has yet to write, are not compared.
    """
    for name, (shared, documents) in _shared(data.heldout, _text_files(data)).items():
        if shared:
            say(
                f"data.heldout.{name}: {shared:,} of {documents:,} documents are in data.train "
                "too, so its loss is too low after a training"
            )


def _text_files(data: Data) -> list[Path]:
    paths = (path for path in data.train_paths if not is_store(path))
    return [file for path in paths for file in text_files(path)]


def _same_bytes(one: Path, other: Path) -> bool:
    return one.samefile(other) or (
        one.stat().st_size == other.stat().st_size and _sha256(one) == _sha256(other)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shared(heldout: Mapping[str, Path], trained: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """For each held-out text: the number of documents that are trained on too, and of all.

    Memory does not grow with the training text.
    """
    hashes = {
        name: [document_hash(text) for text in read_documents(path)]
        for name, path in heldout.items()
    }
    wanted = {each for those in hashes.values() for each in those}
    found: set[bytes] = set()
    for path in trained:
        found |= {each for text in read_documents(path) if (each := document_hash(text)) in wanted}
    return {
        name: (sum(each in found for each in those), len(those)) for name, those in hashes.items()
    }
