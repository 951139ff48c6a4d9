"""The directory of a run: what it is known by, and where its model is."""

from pathlib import Path

from regrow.common.errors import UserError

LEDGER_FILE = "ledger.jsonl"
"""The file that a directory is known by to be a run."""
MODEL_LINK = "model"
"""The link to the model of the last stage, in the directory of a run."""


def is_run(directory: Path) -> bool:
    """Whether a directory holds a run, and is no model itself."""
    return (directory / LEDGER_FILE).is_file() and not (directory / "config.json").exists()


def model_of_run(directory: Path) -> Path:
    """The model of a run: where its link leads. Raises UserError if the run is not finished."""
    link = directory / MODEL_LINK
    if link.is_dir():
        return link
    stages = sorted(directory.glob("stages/*/model"))
    advice = f"; models so far: {', '.join(map(str, stages))}" if stages else ""
    raise UserError(f"{directory}: a run that is not finished, so it has no model yet{advice}")
