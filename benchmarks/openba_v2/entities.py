"""The report's scores on named entities: trained on some types, and asked for others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import say

import regrow
from openba_v2.report import ENTITY_SETS

TRAINED_ON = "pile_ner_sample"


def sets(data: Path) -> list[str]:
    """The seven test sets of the report, as `NAME=PATH`."""
    places = {
        name: data / ("mit" if name in ENTITY_SETS[:2] else "crossner") for name in ENTITY_SETS
    }
    return [f"{name}={place / name / 'test.txt'}" for name, place in places.items()]


def scores(
    models: Mapping[str, Path], data: Path, out: Path, *, train: int, test: int, epochs: int
) -> dict[str, Any]:
    """F1 in percent of each model on each set, after training on a sample of Pile-NER.

    `train` and `test`: sentences of each set. A model that was trained in `out` is not trained
    again, and tags are chosen alone (`--constrained`), so that no words are lost.
    """
    texts = [str(path) for path in sorted((data / TRAINED_ON).glob("*.json*"))]
    found = []
    for name, model in models.items():
        tuned = out / f"entities-{name.replace(' ', '-')}"
        if not (tuned / "config.json").is_file():
            trained = regrow.train_entities(model, tuned, texts, epochs=epochs, limit=train)
            say(f"{name}: {trained.tokens:,} tokens, {trained.seconds:.0f} s, "
                f"loss {trained.curve[-1][1]:.3f}")  # fmt: skip
        result = regrow.evaluate_entities(tuned, sets(data), limit=test, constrained=True)
        found.append({
            "name": name,
            "sets": {
                each.name: {"report": 100 * each.report_f1, "strict": 100 * each.f1,
                            "sentences": each.sentences, "entities": each.entities}
                for each in result.sets
            },
        })  # fmt: skip
    return {"models": found}
