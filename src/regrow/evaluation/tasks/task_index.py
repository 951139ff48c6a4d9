"""Find the files of lm-eval's tasks by name, without reading all 14,000 of them each time.

Most tasks lie in the folder whose name their own begins with (`mmlu_anatomy` in `mmlu`). Only that
folder is read. If a name is not found so, all folders are read once, which takes half a minute,
and the list is kept in a cache.
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks._index import Entry, Kind, TaskIndex

from regrow.common.errors import UserError
from regrow.common.files import cache_directory, json_bytes, read_json_object, write_atomically

_TASKS = Path(lm_eval.tasks.__file__).parent
_FOLDERS = {"ai2_arc": "arc", "boolq": "super_glue"}
"""Folders of names that begin otherwise."""

Index = dict[str, Any]
"""Entries of lm-eval's index of tasks by name."""


class Tasks:
    """The tasks of lm-eval by name. `say` takes a message before all files are read."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def index_with(self, name: str) -> Index:
        """An index that holds the task, group or tag of this name and its members, if there is one.

        `name` may also be the YAML file of a task or a group, whose folder is then read.

        Raises UserError if the file is missing or broken.
        """
        if name.endswith((".yaml", ".yml")):
            return _index_of_file(name)
        folder = _folder(name)
        if folder is not None:
            index: Index = TaskIndex.build([folder])
            if _is_whole(name, index):
                return index
        return self.all

    @cached_property
    def all(self) -> Index:
        """All tasks, from the cache if it is there."""
        version = importlib.metadata.version("lm-eval")
        # Older versions of regrow wrote absolute paths, to a file of another name.
        cache = cache_directory() / f"lm-eval-{version}-task-files.json"
        if not cache.is_file():
            self._say("reading the names of all tasks of lm-eval (once)")
            _save(TaskIndex.build([_TASKS]), cache)
        return _load(cache)


def _folder(name: str) -> Path | None:
    """The folder with the longest name that this name begins with."""
    parts = name.replace("-", "_").split("_")
    candidates = ["_".join(parts[:count]) for count in range(len(parts), 0, -1)]
    for candidate in (_FOLDERS.get(name, ""), *candidates):
        if candidate and (_TASKS / candidate).is_dir():
            return _TASKS / candidate
    return None


def _is_whole(name: str, index: Index) -> bool:
    """Whether an index has this name, and all members if it is a group."""
    entry = index.get(name)
    if entry is None:
        return False
    if entry.kind != Kind.GROUP:
        return True
    members = (entry.cfg or {}).get("task") or []
    names = [each if isinstance(each, str) else _member(each) for each in members]
    return all(each is None or _is_whole(each, index) for each in names)


def _member(settings: Mapping[str, Any]) -> str | None:
    """The name of a member that is given with settings; None for a group without a file."""
    found = settings.get("task")
    return found if isinstance(found, str) else None


def _index_of_file(name: str) -> Index:
    path = Path(name)
    if not path.is_file():
        raise UserError(f"{path}: no such file", key="tasks")
    index = TaskIndex.build([path.parent])
    entry = next((each for each in index.values() if each.yaml_path == path), None)
    if entry is None:  # it is broken, or another file has the same name; this says why
        entry = TaskIndex.entry_from_path(path)
    if entry is None:
        raise UserError(f"{path}: names neither a task nor a group")
    return {**index, name: entry}  # as it was given


def _save(index: Index, path: Path) -> None:
    """Paths are kept relative to lm-eval's folder: it may be moved, or installed a second time."""
    rows = {
        name: [entry.kind.name, _relative(entry.yaml_path), sorted(entry.tags)]
        for name, entry in index.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json_bytes(rows, indent=None))


def _relative(path: Path | None) -> str:
    return "" if path is None else path.relative_to(_TASKS).as_posix()


def _load(path: Path) -> Index:
    return {
        name: Entry(name, Kind[kind], _TASKS / file if file else None, tags=set(tags))
        for name, (kind, file, tags) in read_json_object(path).items()
    }
