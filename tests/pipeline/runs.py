"""Runs of a tiny recipe, and what is compared of them."""

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import regrow
from regrow.common.progress import Update
from regrow.pipeline.finished import Result
from regrow.pipeline.ledger import read_entries

Recipe = dict[str, Any]
SAME = ["original", "recipe", "texts"]
ALL = [
    "original", "recipe", "texts", "original/measure", "original/answers",
    "depth/carve", "depth/measure-cut", "depth/recover", "depth/measure", "depth/answers",
    "width/carve", "width/measure-cut", "width/recover", "width/measure", "width/answers",
    "vocabulary/carve", "vocabulary/measure-cut", "vocabulary/recover", "vocabulary/measure",
    "vocabulary/answers", "speed",
]  # fmt: skip


def recover(tokens: int, **more: Any) -> dict[str, Any]:
    return {"tokens": tokens, "row_length": 32, "batch_tokens": 64, "learning_rate": 0.01, **more}


class StoppedError(Exception):
    """Raised out of a run, as if it were killed there."""


@dataclass(frozen=True)
class Finished:
    """A finished run that no test changes, and what it was made of."""

    home: Path
    recipe: Recipe
    out: Path
    result: Result
    updates: list[Update]
    said: list[str]

    def changed(self, *places: tuple[str, Any]) -> Recipe:
        """The recipe with some dotted keys set; stages by name."""
        recipe = copy.deepcopy(self.recipe)
        for dotted, value in places:
            at: Any = recipe
            *before, last = dotted.split(".")
            for key in before:
                named = at if isinstance(at, dict) else {stage["name"]: stage for stage in at}
                at = named[key]
            at[last] = value
        return recipe

    def copied(self, out: Path) -> Path:
        shutil.copytree(self.out, out, symlinks=True)
        return out


def go(recipe: Recipe, out: Path, **options: Any) -> Result:
    """Write the recipe beside `out` and run it."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return regrow.run(path, out, **options)


def contents(directory: Path) -> dict[str, bytes]:
    """All files by path, without the lock and without those that hold times.

    The page says where the model is, so the directory has one name in all of them.
    """

    def read(path: Path) -> bytes:
        data = path.read_bytes()
        is_page = path.name == "report.html"
        return data.replace(str(directory).encode(), b"OUT") if is_page else data

    return {
        str(path.relative_to(directory)): read(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and path.name not in ("lock", "finished.json")
        and path.parent.name != "tensorboard"
    }


def weights(out: Path) -> dict[str, bytes]:
    """The stages' weight files, by path."""
    found = contents(out / "stages")
    return {name: data for name, data in found.items() if name.endswith(".safetensors")}


def entries(out: Path) -> Mapping[str, Any]:
    return read_entries(out / "ledger.jsonl")


def assert_same_result(out: Path, other: Path) -> None:
    """Models to the last bit; cuts, curves and losses too."""
    ours, theirs = contents(out / "stages"), contents(other / "stages")
    assert ours.keys() == theirs.keys()
    for name, data in ours.items():
        assert data == theirs[name], name
    told, wanted = entries(out), entries(other)
    assert told.keys() == wanted.keys()
    timed = {"seconds", "speeds", "directory", "model"}
    for name, entry in told.items():
        decisive = {key: value for key, value in entry.outputs.items() if key not in timed}
        assert decisive == {k: v for k, v in wanted[name].outputs.items() if k not in timed}, name


def flip(path: Path) -> None:
    """Change a bit near the end of a file."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def written(finished: Finished, tmp_path: Path, recipe: Recipe | None = None) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe or finished.recipe, sort_keys=False), encoding="utf-8")
    return path
