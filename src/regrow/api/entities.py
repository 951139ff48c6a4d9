"""Named entities: train a model to tag them, and evaluate it."""

from __future__ import annotations  # so that help() shows them as they are written

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.api.arguments import Paths, names, open_model, options_of, paths
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.ner.evaluate import EntityResult
    from regrow.ner.train import TrainedTagger

WITHOUT = ("misc",)
"""Types that are left out by default, as in the OpenBA-V2 report."""


def train_entities(
    model: Path | str,
    out: Path | str,
    train: Paths,
    *,
    heldout: Paths = (),
    without: str | Sequence[str] = WITHOUT,
    settings: dict[str, Any] | None = None,
    progress: Progress = QUIET,
    **how: Any,
) -> TrainedTagger:
    """Train a model to tag named entities, and write a plain Hugging Face directory.

    A training that was stopped goes on when it is called again. Under torchrun, call it in every
    process.

    The options in `how` are those of `regrow.ner.train.EntityTraining`: `epochs`, `most_types`,
    `limit`, `seed`.

    Args:
        model: a directory, a GGUF file, or a hub id.
        out: a new or empty directory.
        train: files of annotated sentences, a path each or `NAME=PATH` (docs/ner.md).
        heldout: files of other sentences, on which the loss is measured at the end.
        without: types that are left out. Each but `misc` must be a type of the files.
        settings: keys of `regrow.training.settings.RecoverySettings`.
        progress: receives messages and the state of the training.
        how: what is trained on; see above.

    Raises:
        UserError: a file or an option is not valid, or the model cannot be trained like this.
    """
    from regrow.ner.reading import check_left_out, read_sets
    from regrow.ner.train import EntityTraining, train_tagger

    chosen = options_of("train_entities", EntityTraining, how)
    left_out = names(without)

    def work() -> TrainedTagger:
        sets = read_sets([str(path) for path in paths(train)], without=left_out)
        held = [str(path) for path in paths(heldout)]
        others = read_sets(held, without=left_out) if held else []
        check_left_out([*sets, *others], left_out, WITHOUT)
        return train_tagger(
            open_model(model, progress), Path(out), sets, chosen,
            heldout=others, settings=settings, progress=progress,
        )  # fmt: skip

    from regrow.training.distributed.processes import join_processes

    return join_processes().lead(work)


def evaluate_entities(
    model: Path | str,
    data: Paths,
    *,
    without: str | Sequence[str] = WITHOUT,
    progress: Progress = QUIET,
    **how: Any,
) -> EntityResult:
    """Let a model tag the named entities of some sentences, and score what it says.

    The options in `how` are those of `regrow.ner.evaluate.EvaluationSettings`: `constrained`,
    `batch_size`, `limit`, `row_length`, `seed`.

    Args:
        model: a directory, a GGUF file, or a hub id.
        data: files of annotated sentences, a path each or `NAME=PATH` (docs/ner.md).
        without: types that are left out. Each but `misc` must be a type of the files.
        progress: receives messages, and the sentences done.
        how: how sentences are tagged; see above.

    Raises:
        UserError: a file or an option is not valid, or the model cannot be asked like this.
    """
    from regrow.ner.evaluate import EvaluationSettings, evaluate_entities
    from regrow.ner.reading import check_left_out, read_sets

    chosen = options_of("evaluate_entities", EvaluationSettings, how)
    left_out = names(without)
    sets = read_sets([str(path) for path in paths(data)], without=left_out)
    check_left_out(sets, left_out, WITHOUT)
    return evaluate_entities(
        open_model(model, progress), sets, chosen, without=left_out, progress=progress
    )
