"""Know at once that a run is finished, without reading its texts and models again.

When a run ends, it writes `finished.json`: a hash of its recipe, and size and times of each file
that it read or wrote. If all of that is as it was, the run is finished. The time of the last change
of a file's content or state (ctime) is among them, which no program can set. So a file whose
content changed is noticed. A file that was copied or touched looks changed too; then the run checks
all that it checks otherwise.
"""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.files import from_home, json_bytes, read_json_object, write_atomically
from regrow.common.run_directory import MODEL_LINK
from regrow.common.yaml_file import map_paths, paths_in
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.run_plan import RunOptions
from regrow.pipeline.steps import RESULTS

FINISHED_FILE = "finished.json"
_CHANGING = ("lock", FINISHED_FILE)

Stamps = Mapping[str, list[int]]
"""Size, time of change of the content, and of the state (ns), by path."""


@dataclass(frozen=True)
class Result:
    """Where the results of a run are.

    Attributes:
        directory: The directory of the run.
        model: A link to the model of the last stage, a plain Hugging Face directory.
        report: The report, an HTML page.
    """

    directory: Path
    model: Path
    report: Path


def result_in(out: Path) -> Result:
    """The places of the results of the run in the directory `out`."""
    return Result(out, out / MODEL_LINK, out / "report.html")


def finished_result(recipe: Recipe, out: Path, options: RunOptions) -> Result | None:
    """The result of a run that is finished; None if that is not known without checking more."""
    path = out / FINISHED_FILE
    if not path.is_file():
        return None
    try:
        noted = read_json_object(path)
    except UserError:
        return None
    result, files, compare = result_in(out), noted.get("files"), noted.get("compare")
    if not isinstance(files, dict) or not isinstance(compare, list):
        return None
    now = {**input_stamps(recipe), **_stamps_below(out)}
    now |= _stamps(Path(name) for name in files.keys() - now.keys())  # those of the original
    same = (
        noted.get("run") == _identity(recipe, options)
        and all(name in compare for name in options.compare)
        and files == now
        and noted.get("model") == _link(result)
        and result.model.is_dir()
    )
    return result if same else None


def already_words(result: Result) -> str:
    """What to say of a run that is finished."""
    return (
        f"finished already: {result.model}, {result.report}; the recipe is the same, and so are "
        "size and times of all files that it read and wrote (their content was not read)"
    )


def note_finished(
    recipe: Recipe, out: Path, options: RunOptions, inputs: Stamps, original: Path
) -> None:
    """Write the file, if no input of the run has changed since `inputs` were taken.

    `recipe`: as it was given. `original`: the directory of the model that was cut.
    """
    path = out / FINISHED_FILE
    path.unlink(missing_ok=True)
    if input_stamps(recipe) != inputs:
        return
    noted = {
        "run": _identity(recipe, options),
        "compare": sorted(options.compare),
        "model": _link(result_in(out)),
        "files": {**_stamps(original.rglob("*")), **inputs, **_stamps_below(out)},
    }
    write_atomically(path, json_bytes(noted))


def input_stamps(recipe: Recipe) -> dict[str, list[int]]:
    """The stamps of the files that a recipe names: texts, stores, cuts, and its model if it is one.

    A directory stands for all files below it, and a path that is none for those that begin with it,
    as those of a token store do.
    """
    found: dict[str, list[int]] = {}
    named = [
        from_home(Path(recipe.model)),
        *(path for _, path in paths_in(recipe)),
        *_tasks(recipe),
    ]
    for path in named:
        near = [] if path.exists() else path.parent.glob(f"{path.name}.*")
        for each in (path, *near):
            files = each.rglob("*") if each.is_dir() else [each]
            found |= _stamps(files)
    return found


def _tasks(recipe: Recipe) -> list[Path]:
    """The files of tasks; a file that they include is not known."""
    names = recipe.evaluate.tasks if recipe.evaluate is not None else ()
    return [Path(name) for name in names if name.endswith((".yaml", ".yml"))]


def _link(result: Result) -> str | None:
    """Where the link to the model leads."""
    return str(result.model.readlink()) if result.model.is_symlink() else None


def _identity(recipe: Recipe, options: RunOptions) -> str:
    """A hash of what a run is made from, apart from the content of files."""
    anywhere = map_paths(recipe, lambda path: Path(os.path.abspath(path)))  # noqa: PTH100
    model = from_home(Path(recipe.model))
    if anywhere.evaluate is not None:
        files = {str(path): str(path.absolute()) for path in _tasks(recipe)}
        tasks = tuple(files.get(name, name) for name in anywhere.evaluate.tasks)
        evaluate = anywhere.evaluate.model_copy(update={"tasks": tasks})
        anywhere = anywhere.model_copy(update={"evaluate": evaluate})
    facts: dict[str, Any] = {
        "recipe": anywhere.model_dump(mode="json", warnings=False, exclude={"model"}),
        "model": str(model.absolute()) if model.exists() else recipe.model,
        "text": options.recipe_text,
        "from_scratch": options.from_scratch,
        "results": RESULTS,
        "version": importlib.metadata.version("regrow"),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stamps_below(out: Path) -> dict[str, list[int]]:
    """The stamps of what a run wrote, by paths in its directory."""
    own = {path: path.relative_to(out) for path in out.rglob("*") if path.name not in _CHANGING}
    stamps = _stamps(own)
    return {str(own[path]): stamp for path in own if (stamp := stamps.get(str(path.absolute())))}


def _stamps(paths: Iterable[Path]) -> dict[str, list[int]]:
    found = {}
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - of what a link leads to
        except (OSError, ValueError):  # a damaged note may name what is no path
            continue
        if not path.is_dir():
            where = str(path.absolute())
            found[where] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return found
