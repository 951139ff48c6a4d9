"""The held-out texts of a recipe that names none: a part of its training text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from regrow.common.errors import UserError
from regrow.corpus.put_aside import PutAside, put_aside, without
from regrow.corpus.reading import CONVERSATIONS, Reading
from regrow.corpus.text import read_documents
from regrow.corpus.token_store import is_store
from regrow.evaluation.heldout_text import HeldoutText
from regrow.pipeline.recipe import HELDOUT, Recipe, Stage
from regrow.pipeline.steps import STAGES

_FILE = "heldout.jsonl"


@dataclass(frozen=True)
class PutAsideText:
    """A part of the training text that is held out.

    Attributes:
        part: What is put aside.
        text: The file that it is written to, which may not exist yet.
        stage: The stage whose conversations it is from; None if it is from `data.train`.
    """

    part: PutAside
    text: HeldoutText
    stage: str | None = None

    def write(self) -> None:
        """Write the file, if it does not hold the part already."""
        self.part.write(self.text.path, self.text.reading)


PutAsideTexts = Mapping[str, PutAsideText]
"""The parts that are put aside, by the name of the held-out text."""


def with_heldout_text(recipe: Recipe, out: Path) -> tuple[Recipe, PutAsideTexts]:
    """The recipe with held-out texts, and what is put aside for them; nothing if it names its own.

    The files of the texts in the directory of the run, `out`, are not written yet. All text files
    that something is put aside from are read twice. Token stores, and text that a model writes, are
    trained on as a whole.

    Raises UserError if the training text has no text file, or is too short.
    """
    parts: dict[str, PutAsideText] = {}
    data = recipe.data
    if not data.heldout:
        paths = [path for path in data.train_paths if not is_store(path)]
        if not paths:
            raise UserError(
                "missing; only a part of text files can be put aside, and data.train has none; "
                "name a held-out text",
                key="data.heldout",
            )
        text = HeldoutText(out / _FILE, recipe.reading)
        parts[HELDOUT] = PutAsideText(_put_aside(paths, recipe.reading, "data.heldout"), text)
        _check_sources(recipe, parts[HELDOUT].part)
        data = data.model_copy(update={"heldout": {HELDOUT: text.path}})
    stages: list[Stage] = []
    for stage in recipe.stages:
        given = stage.data
        if given is not None and not given.heldout:
            key = f"stages: {stage.name}: data.heldout"
            text = HeldoutText(out / STAGES / stage.name / _FILE, CONVERSATIONS)
            part = _put_aside(given.train, CONVERSATIONS, key)
            parts[stage.name] = PutAsideText(part, text, stage.name)
            given = given.model_copy(update={"heldout": {stage.name: text.path}})
        stages.append(stage.model_copy(update={"data": given}))
    return recipe.model_copy(update={"data": data, "stages": stages}), parts


def _put_aside(paths: Sequence[Path], reading: Reading, key: str) -> PutAside:
    def documents() -> Iterator[str]:
        for path in paths:
            yield from read_documents(path, reading)

    try:
        found = put_aside(documents)
    except UserError as error:
        raise UserError(str(error), key=key) from None
    if reading.conversations and found.is_an_end:
        raise UserError(
            "the conversations are too few and too long to put some aside; name held-out ones",
            key=key,
        )
    return found


def _check_sources(recipe: Recipe, aside: PutAside) -> None:
    """Raise UserError if a source has no text left to train on."""
    for source in recipe.data.sources:
        if source.model is not None or any(map(is_store, source.paths)):
            continue
        documents = chain.from_iterable(
            read_documents(path, recipe.reading) for path in source.paths
        )
        if next(without(documents, aside.remains), None) is None:
            raise UserError(
                f"the only document of {source.name} would be held out; name a held-out text",
                key="data.heldout",
            )
