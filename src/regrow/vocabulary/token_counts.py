"""How often each token occurs, by source and script; its file, and the sum of several."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.files import parse_json_object, write_atomically

FORMAT = 1
_TENSOR = "counts"
_KEY = "regrow"
_NO_CHANCE = 1 << 16
"""Files of equal text with at least so many bytes are copies, whatever their names."""


@dataclass(frozen=True)
class Group:
    """Documents of one source in one script.

    Attributes:
        source: the name of the source, such as a language.
        script: of most of their letters, one of :data:`regrow.vocabulary.scripts.SCRIPTS`.
        documents, characters, bytes: the size of the text; bytes in UTF-8.
    """

    source: str
    script: str
    documents: int = 0
    characters: int = 0
    bytes: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.script


@dataclass(frozen=True)
class CountedFile:
    """A file that was counted.

    Attributes:
        path: of the file, when it was counted.
        source: the name of its source.
        bytes: on disk.
        sha256: of the hashes of its blocks; equal for equal text in files of the same format.
    """

    path: str
    source: str
    bytes: int
    sha256: str

    def is_same_text(self, other: "CountedFile") -> bool:
        """Whether both are the same file, so that adding both would count its tokens twice.

        Small files can be equal by chance, so they must also have the same name.
        """
        same_name = Path(self.path).name == Path(other.path).name
        large = min(self.bytes, other.bytes) >= _NO_CHANCE
        return self.sha256 == other.sha256 != "" and (same_name or large)


Entry = TypeVar("Entry", Group, CountedFile)


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Occurrences of each token in a corpus.

    Attributes:
        tokenizer_sha256: see :func:`regrow.corpus.tokenizer_hash.tokenizer_sha256`.
        groups: in the order of source, then script.
        counts: occurrences, shape [groups, largest id + 1], int64.
        files: in the order in which they were given.
    """

    tokenizer_sha256: str
    groups: tuple[Group, ...]
    counts: NDArray[np.int64]
    files: tuple[CountedFile, ...]

    @property
    def total(self) -> NDArray[np.int64]:
        """Occurrences in the whole corpus, shape [largest id + 1]."""
        found: NDArray[np.int64] = self.counts.sum(axis=0)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names that :meth:`of` takes: the sources, then the scripts."""
        return tuple(
            dict.fromkeys([*(g.source for g in self.groups), *(g.script for g in self.groups)])
        )

    @property
    def languages(self) -> tuple[str, ...]:
        """The sources if there are several, else the scripts."""
        sources = tuple(dict.fromkeys(group.source for group in self.groups))
        return sources if len(sources) > 1 else tuple(group.script for group in self.groups)

    def of(self, names: Sequence[str], key: str) -> NDArray[np.int64]:
        """Occurrences in the documents of these sources or scripts, each counted once.

        Raises:
            UserError: one of the names was not counted; ``key`` is the key of the error.
        """
        for name in names:
            if name not in self.names:
                known = ", ".join(self.names)
                raise UserError(f"{name!r} was not counted; there are {known}", key=key)
        found: NDArray[np.int64] = self.counts[self._rows(names)].sum(axis=0)
        return found

    def characters(self, names: Sequence[str]) -> int:
        """Characters in the documents of these sources or scripts."""
        return sum(self.groups[row].characters for row in self._rows(names))

    def _rows(self, names: Sequence[str]) -> list[int]:
        return [
            row for row, group in enumerate(self.groups) if not set(names).isdisjoint(group.key)
        ]

    def to_json(self) -> dict[str, Any]:
        """The groups and files as JSON, without the counts of single tokens."""
        groups = zip(self.groups, self.counts.sum(axis=1).tolist(), strict=True)
        return {
            "tokenizer_sha256": self.tokenizer_sha256,
            "groups": [{**asdict(group), "tokens": tokens} for group, tokens in groups],
            "files": [asdict(file) for file in self.files],
        }

    def save(self, path: Path, more: Mapping[str, Any] | None = None) -> None:
        """Write a safetensors file: the tensor ``counts``, and the rest as JSON in its metadata.

        ``more``: further facts, which :func:`read_facts` returns.
        """
        from safetensors.numpy import save

        facts = {
            **(more or {}),
            "format": FORMAT,
            "tokenizer_sha256": self.tokenizer_sha256,
            "groups": [asdict(group) for group in self.groups],
            "files": [asdict(file) for file in self.files],
        }
        text = json.dumps(facts, ensure_ascii=False)
        write_atomically(path, save({_TENSOR: self.counts}, metadata={_KEY: text}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote. Raises UserError at any other file."""
        wrong = UserError(f"{path}: not token counts; name a file that regrow vocab count wrote")
        facts, counts = _read(path, wrong)
        try:
            groups = tuple(_checked(Group(**group)) for group in facts["groups"])
            files = tuple(_checked(CountedFile(**entry)) for entry in facts["files"])
            found = cls(str(facts["tokenizer_sha256"]), groups, counts, files)
        except (KeyError, TypeError) as error:
            raise wrong from error
        if counts.dtype != np.int64 or counts.ndim != 2 or len(counts) != len(groups):
            raise wrong
        if (counts < 0).any():
            raise wrong
        return found

    def check_tokenizer(self, sha256: str, where: str, model: Path) -> None:
        """Raise UserError if the counts are of another tokenizer; ``where``: their file."""
        if self.tokenizer_sha256 != sha256:
            raise UserError(
                f"{where}: counted with another tokenizer than that of {model}; count again"
            )


def _checked(entry: Entry) -> Entry:
    """The same group or file. Raises TypeError if a value has another type, or is negative."""
    for field in fields(entry):
        value = getattr(entry, field.name)
        if type(value) is not field.type or (field.type is int and not 0 <= value < 1 << 62):
            raise TypeError(field.name)
    return entry


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in the metadata of a file of counts. Raises UserError at any other file."""
    wrong = UserError(f"{path}: not token counts; name a file that regrow vocab count wrote")
    return _read(path, wrong)[0]


def _read(path: Path, wrong: UserError) -> tuple[dict[str, Any], NDArray[np.int64]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path}: no such file; name one that regrow vocab count wrote")
    try:
        with safe_open(path, framework="np") as file:
            facts = parse_json_object((file.metadata() or {})[_KEY].encode(), str(path))
            counts = file.get_tensor(_TENSOR)
    except (SafetensorError, KeyError, ValueError, OSError, UserError) as error:
        raise wrong from error
    if facts.get("format") != FORMAT:
        raise wrong
    return facts, counts


def merge(parts: Sequence[tuple[str, TokenCounts]]) -> TokenCounts:
    """The sum of several counts; ``parts``: with a name of each for messages.

    Raises:
        UserError: they were counted with different tokenizers, or a text was counted twice.
    """
    first_name, first = parts[0]
    seen: dict[str, list[tuple[int, CountedFile]]] = {}
    for number, (name, part) in enumerate(parts):
        if part.tokenizer_sha256 != first.tokenizer_sha256:
            raise UserError(f"{name}: counted with another tokenizer than {first_name}")
        for file in part.files:
            for before, other in seen.get(file.sha256, []):
                if before != number and other.is_same_text(file):
                    raise UserError(
                        f"{name}: holds the counts of {Path(file.path).name}, whose text "
                        f"{parts[before][0]} has too; its tokens would count twice"
                    )
            seen.setdefault(file.sha256, []).append((number, file))
    tally = Tally()
    for _, part in parts:
        tally.add(zip(part.groups, part.counts, strict=True))
    files = tuple(file for _, part in parts for file in part.files)
    return tally.counts(first.tokenizer_sha256, first.counts.shape[1], files)


class Tally:
    """Counts and sizes of groups, to which more can be added."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Group] = {}
        self._rows: dict[tuple[str, str], NDArray[np.int64]] = {}

    @property
    def documents(self) -> int:
        return sum(group.documents for group in self._groups.values())

    def __iter__(self) -> Iterator[tuple[Group, NDArray[np.int64]]]:
        return ((group, self._rows[key]) for key, group in self._groups.items())

    def add(self, more: Iterable[tuple[Group, NDArray[np.int64]]]) -> None:
        for group, counts in more:
            self.row(group, len(counts))[:] += counts

    def row(self, group: Group, ids: int) -> NDArray[np.int64]:
        """Add the sizes of a group; its counts, [ids], to which the caller adds."""
        old = self._groups.get(group.key)
        if old is None:
            self._groups[group.key] = group
            self._rows[group.key] = np.zeros(ids, dtype=np.int64)
        else:
            self._groups[group.key] = replace(
                old,
                documents=old.documents + group.documents,
                characters=old.characters + group.characters,
                bytes=old.bytes + group.bytes,
            )
        return self._rows[group.key]

    def counts(self, tokenizer_sha256: str, ids: int, files: Sequence[CountedFile]) -> TokenCounts:
        """The sum of all that was added; ``ids``: largest id + 1."""
        keys = sorted(self._groups)
        counts = np.zeros((len(keys), ids), dtype=np.int64)
        for row, key in zip(counts, keys, strict=True):
            row[:] = self._rows[key]
        groups = tuple(self._groups[key] for key in keys)
        return TokenCounts(tokenizer_sha256, groups, counts, tuple(files))
