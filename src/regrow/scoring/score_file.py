"""A file of scores. Cuts are made from it without the text, and without running the model."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError, ending_in
from regrow.common.fields import Size, Strict
from regrow.common.files import read_json_object, write_atomically
from regrow.corpus.text import Documents, documents_sha256
from regrow.scoring.score import scorable_axes, score, score_names

FORMAT = 1
_RIGHT = "name a file that regrow score wrote"


def _split(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class ScoreSpec(Strict):
    """What is scored, and how.

    Attributes:
        by: Name of the score; None takes the default of each axis.
        axes: Names of axes; None takes all that the score can score.
        calibration_tokens: Number of tokens of text on which scores are computed.
    """

    by: str | None = None
    axes: Annotated[list[str] | None, BeforeValidator(_split)] = None
    calibration_tokens: Size = 16_384


@dataclass(frozen=True)
class TextFacts:
    """The calibration text: the SHA-256 of all of it, and how many of its tokens were asked for."""

    sha256: str
    tokens: int


@dataclass(frozen=True, eq=False)
class SavedScores:
    """The contents of the file.

    Attributes:
        model: fingerprint of the model that was scored.
        by: the name of the score of each axis.
        seed: of random scores, and of which rows of the text were read.
        text: the calibration text; None if there was none.
        scores: by axis, as :func:`regrow.scoring.score.score` gives them.
    """

    model: str
    by: Mapping[str, str]
    seed: int
    text: TextFacts | None
    scores: Mapping[str, NDArray[np.float64]]

    def save(self, path: Path) -> None:
        """Write JSON with a line for each row of scores. Numbers are read back to the bit."""
        text = None if self.text is None else vars(self.text)
        facts = {
            "format": FORMAT, "model": self.model, "by": dict(self.by), "seed": self.seed,
            "text": text,
        }  # fmt: skip
        axes = []
        for name, values in self.scores.items():
            rows = ",\n   ".join(json.dumps(row) for row in np.atleast_2d(values).tolist())
            listed = rows if values.ndim == 1 else f"[\n   {rows}\n  ]"
            axes.append(f"  {json.dumps(name)}: {listed}")
        head = json.dumps(facts, ensure_ascii=False, indent=1).removesuffix("\n}")
        body = ",\n".join(axes)
        write_atomically(path, f'{head},\n "scores": {{\n{body}\n }}\n}}\n'.encode())


def compute_scores(
    source: ModelDirectory,
    spec: ScoreSpec,
    documents: Documents | None,
    *,
    seed: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> SavedScores:
    """The scores of a model with all that a file says of them.

    `documents`: opens the calibration text; None if there is none.

    Raises UserError if an axis is not there or cannot be scored like this.
    """
    from regrow.scoring.calibration import CalibrationText

    layout = source.layout
    axes = scorable_axes(layout, spec.by) if spec.axes is None else spec.axes
    known = layout.blueprint.axis_names
    for name in axes:
        if name not in known:
            raise UserError(f"the model has {', '.join(known)}", key="axes", value=name)
    if not axes:
        raise UserError("the model has no axis that can be scored", key="axes")
    names = score_names(layout, axes, spec.by)
    text = facts = None
    if documents is not None:
        text = CalibrationText(documents, spec.calibration_tokens)
        facts = TextFacts(documents_sha256(documents()), spec.calibration_tokens)
    scores = score(source, axes, by=spec.by, text=text, seed=seed, notify=notify)
    chosen = {name: scores[name] for name in names}
    return SavedScores(source.checkpoint.fingerprint, names, seed, facts, chosen)


def load_scores(path: Path) -> SavedScores:
    """Read what `SavedScores.save` wrote. Raises UserError at any other file."""
    with ending_in(_RIGHT, key="scores"):
        facts = read_json_object(path)
    try:
        if facts["format"] != FORMAT:
            raise ValueError
        text = facts["text"]
        return SavedScores(
            str(facts["model"]),
            {str(name): str(by) for name, by in facts["by"].items()},
            int(facts["seed"]),
            None if text is None else TextFacts(str(text["sha256"]), int(text["tokens"])),
            {str(name): _array(rows) for name, rows in facts["scores"].items()},
        )
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: no scores; {_RIGHT}", key="scores") from None


def scores_for(
    path: Path, layout: Layout, fingerprint: str | None, axes: Iterable[str]
) -> Mapping[str, NDArray[np.float64]]:
    """The scores in a file, for a cut of these axes.

    `fingerprint`: of the model that is cut; None if there is no model yet.

    Raises UserError if the file is of another model, or lacks one of the axes.
    """
    saved = load_scores(path)
    if fingerprint is not None and saved.model != fingerprint:
        raise UserError(
            f"{path}: made for model {saved.model[:19]}…, this one is {fingerprint[:19]}…; "
            "score this model",
            key="scores",
        )
    for axis in axes:
        # Key-value heads are chosen by the scores of their query heads.
        name = next((a.name for a in layout.blueprint.axes if a.groups == axis), axis)
        if name not in saved.scores:
            raise UserError(
                f"{path}: holds no scores of {name}, but of {', '.join(saved.scores)}; "
                f"score {name} too",
                key="scores",
            )
        size, spec = layout.sizes[name], layout.blueprint.axis(name)
        fitting: list[tuple[int, ...]] = [(size,)]
        if spec.along:
            fitting.append((layout.sizes[spec.along], size))
        if spec.kind == "layer":
            fitting.append((size + 1, size + 1))
        if saved.scores[name].shape not in fitting:
            raise UserError(
                f"{path}: {name}: scores of shape {list(saved.scores[name].shape)} do not fit "
                f"the {size:,} of this model; score this model",
                key="scores",
            )
    return saved.scores


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of the bytes of a file. Raises UserError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {_RIGHT}", key="scores") from None


def _array(rows: Any) -> NDArray[np.float64]:
    values = np.array(rows, dtype=np.float64)
    if values.ndim not in (1, 2) or not np.isfinite(values).all():
        raise ValueError
    return values
