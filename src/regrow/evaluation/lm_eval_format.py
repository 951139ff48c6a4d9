"""Write results in the format of lm-eval."""

import json
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lm_eval.utils import handle_non_serializable

from regrow.common.errors import UserError
from regrow.common.files import write_atomically
from regrow.common.outputs import check_place
from regrow.common.publishing import make_directory
from regrow.evaluation.task_results import Evaluated


def check_results_directory(out: Path) -> None:
    """Raise UserError if results cannot be written to this directory."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a directory for the results", key="out")
    check_place(out / "results.json")


def write_results(models: Sequence[Evaluated], out: Path) -> None:
    """Write `results.json`, and a `samples_TASK.jsonl` for each task, in a directory per model.

    Raises UserError if they cannot be written.
    """
    names = directory_names([model.name for model in models])
    try:
        for model, name in zip(models, names, strict=True):
            make_directory(out / name)
            results = {key: each for key, each in model.results.items() if key != "samples"}
            write_atomically(out / name / "results.json", _json(results, indent=2))
            for task, samples in model.results["samples"].items():
                path = out / name / f"samples_{quote(task, safe=' ')}.jsonl"
                write_atomically(path, b"".join(map(_json, samples)))
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def directory_names(models: Sequence[str]) -> list[str]:
    """A name of a directory for each model: the last part of its path, with a number if needed."""
    found: list[str] = []
    for model in models:
        last = Path(model).name
        name = "model" if last in ("", "..") else quote(last, safe=" ")
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        found.append(next(each for each in names if each not in found))
    return found


def _json(value: Any, indent: int | None = None) -> bytes:
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=handle_non_serializable)
    return (text + "\n").encode()
