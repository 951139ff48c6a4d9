"""The history of a model: the first original, and each step that led from it to this model.

Each writer of a model adds its step and writes `regrow_history.json` and the model card beside the
weights. Neither file decides a result, so no hash of a model holds them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from regrow.architectures import Layout
from regrow.checkpoint.base_card import (
    card_facts,
    hub_id_of,
    is_hub_id,
    is_revision,
    source_file,
    source_name,
    valid_facts,
)
from regrow.checkpoint.companions import HISTORY_FILE
from regrow.common.errors import UserError
from regrow.common.files import json_bytes, read_json_object
from regrow.common.printable import printable

FORMAT = 1
_MOST = 10**15
"""No model has more parameters."""


@dataclass(frozen=True)
class Base:
    """The first original.

    Attributes:
        name: A name without a path.
        hub_id: Where it is on the hub (`owner/name`); None if that is not known.
        revision: Its commit there; None if that is not known.
        parameters: Of the whole model.
        sizes: By axis.
        card: What its card says of licence, language and task, by the keys of the metadata.
        random_weights: Whether only its config and tokenizer were used.
        file: The name of the file that it was converted from; None if it was not.
    """

    name: str
    hub_id: str | None
    revision: str | None
    parameters: int
    sizes: Mapping[str, int]
    card: Mapping[str, Any]
    random_weights: bool = False
    file: str | None = None


@dataclass(frozen=True)
class Change:
    """One step from a model to the next.

    Attributes:
        kind: A cut, additional tokens, or a training.
        words: What was done, in one line.
        settings: Its settings by the keys of a recipe, with names in place of paths; empty if no
            recipe has such a step.
        parameters, sizes: Of the model after it; the sizes by axis.
    """

    kind: Literal["cut", "tokens", "training"]
    words: str
    settings: Mapping[str, Any]
    parameters: int
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class History:
    """The first original, and the steps from it to a model, in order."""

    base: Base
    steps: tuple[Change, ...] = field(default=())

    def then(self, step: Change) -> "History":
        """This history and one more step."""
        return replace(self, steps=(*self.steps, step))

    @property
    def parameters(self) -> int:
        """Of the model that the steps led to."""
        return self.steps[-1].parameters if self.steps else self.base.parameters

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of the model that the steps led to, by axis."""
        return self.steps[-1].sizes if self.steps else self.base.sizes


def change(
    kind: Literal["cut", "tokens", "training"],
    words: str,
    settings: Mapping[str, Any],
    layout: Layout,
    sizes: Mapping[str, int] | None = None,
) -> Change:
    """A step that gives the axes of a layout these sizes; axes that are absent keep theirs."""
    new = {**sizes_of(layout), **(sizes or {})}
    return Change(kind, words, settings, layout.parameters(sizes), new)


def sizes_of(layout: Layout) -> dict[str, int]:
    """The sizes of the axes of a layout, without those that are fixed."""
    return {name: layout.sizes[name] for name in layout.blueprint.axis_names}


def history_of(directory: Path, layout: Layout) -> History:
    """The history of the model in a directory; a model without one is a first original.

    Raises UserError if the file of the history or the card is damaged.
    """
    path = directory / HISTORY_FILE
    if path.is_file():
        return read_history(path)
    hub_id, revision = hub_id_of(directory)
    name = hub_id and hub_id.rpartition("/")[2]
    name = name or source_name(directory) or printable(directory.resolve().name)
    facts = card_facts(directory, hub_id)
    base = Base(
        name, hub_id, revision, layout.parameters(), sizes_of(layout), facts,
        file=source_file(directory),
    )  # fmt: skip
    return History(base)


def read_history(path: Path) -> History:
    """Read what `history_bytes` gave. Raises UserError if the file is damaged."""
    found = read_json_object(path)
    try:
        if found.pop("format", None) != FORMAT:
            raise ValueError
        history = TypeAdapter(History).validate_python(found)
        base = history.base
        models: tuple[Base | Change, ...] = (base, *history.steps)
        counts = [count for model in models for count in (model.parameters, *model.sizes.values())]
        is_known = base.hub_id is None or is_hub_id(base.hub_id)
        is_commit = base.revision is None or is_revision(base.revision)
        if not (is_known and is_commit and all(0 < count <= _MOST for count in counts)):
            raise ValueError
        if not all(isinstance(step.settings.get("recover", {}), Mapping) for step in history.steps):
            raise ValueError
    except (ValidationError, ValueError):
        raise UserError(
            f"{path}: not the history of a model; remove the file, then the model counts as an "
            "original"
        ) from None
    return replace(history, base=replace(base, card=valid_facts(base.card)))


def history_bytes(history: History) -> bytes:
    """The file of a history, as `read_history` reads it."""
    return json_bytes({"format": FORMAT, **asdict(history)}, 1)


def with_names(value: Any) -> Any:
    """A value of JSON or YAML with the names of files in place of their paths."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): with_names(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [with_names(each) for each in value]
    if callable(value):
        return getattr(value, "__name__", "a function")
    return value
