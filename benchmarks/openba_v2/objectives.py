"""UL2, D-UL2 and O-UL2 at equal time after a cut of widths, and D-UL2 by other rules."""

import math
from pathlib import Path
from typing import Any

from openba_v2.recipes import (
    OBJECTIVES,
    WIDTH,
    Recipe,
    d_ul2,
    directory,
    equal_times,
    other_rules,
    row_length,
    seconds,
)
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout_components import heldout_denoisers
from regrow.models.loading import load_model, load_tokenizer
from regrow.objectives.rows.denoisers import UL2, Denoiser
from regrow.report.records import RunSummary

HALF = Denoiser(math.inf, 0.5, "<S>")
"""The denoiser of four fifths of O-UL2's rows: it takes out the second half of a text."""


def compared(recipe: Recipe, out: Path, tokens: int) -> dict[str, Any]:
    """The held-out loss of each denoiser after each objective, and the tokens it was trained on.

    `tokens`: how many each loss is measured on. It begins with the staged run's model before the
    cut of widths.
    """
    trained = equal_times(recipe, out)
    texts = [Path(path) for path in recipe["data"]["heldout"].values()]
    return {
        name: {
            "tokens": trained[name].stages[0].curve[-1][0],
            "seconds": round(seconds(out / directory(name)), 1),
            "losses": denoiser_losses(out / directory(name), texts, tokens, row_length(recipe)),
        }
        for name in OBJECTIVES
    }


def denoiser_losses(out: Path, texts: list[Path], tokens: int, row: int) -> dict[str, float]:
    """Held-out loss of each denoiser of UL2, and of `HALF`, on the same text for all models."""
    place = out / "stages" / WIDTH / "model"
    model, tokenizer = load_model(place), load_tokenizer(place)
    documents = (text for path in texts for text in read_documents(path))
    denoisers = {**UL2, "half": HALF}
    found = heldout_denoisers(documents, tokenizer, model.config, row, tokens, denoisers)
    return found.losses(model)


def rules(recipe: Recipe, out: Path) -> dict[str, Any]:
    """The last shares of D-UL2, by its rule; `stable` is that of `compared`."""
    found = {"stable": d_ul2(recipe, out), **other_rules(recipe, out)}
    return {rule: last_shares(summary) for rule, summary in found.items()}


def last_shares(summary: RunSummary) -> dict[str, float]:
    (stage,) = summary.stages
    (mixture,) = stage.mixtures
    return mixture.shares[-1][1]
