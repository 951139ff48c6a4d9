"""Put what a run measured into the model cards of its stages."""

from collections.abc import Mapping
from typing import Any

from regrow.checkpoint.companions import CARD_FILE, HISTORY_FILE
from regrow.checkpoint.history import read_history
from regrow.checkpoint.model_card import Scores, TaskScore, TaskScores, TextScores, model_card
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.files import write_atomically
from regrow.pipeline.stage_steps import StageSteps
from regrow.pipeline.task_summary import shown_scores

Outputs = Mapping[str, Mapping[str, Any]]
"""What steps found, by the name of the step."""


def write_scores(
    model: ModelDirectory, outputs: Outputs, stage: str, *, again: bool = False
) -> None:
    """Write the card of the model of a stage with its scores.

    `again`: also if the card has been changed since it was written without scores. So what a user
    wrote into the card of a stage stays, unless the model is measured again.

    Raises UserError if the history of the model is damaged.
    """
    history_path, path = model.path / HISTORY_FILE, model.path / CARD_FILE
    if not history_path.is_file():
        return  # a run from before there were cards
    history, config = read_history(history_path), model.checkpoint.config
    unscored = path.is_file() and path.read_bytes() == model_card(history, config)
    if again or unscored:
        write_atomically(path, model_card(history, config, scores_of(outputs, stage)))


def scores_of(outputs: Outputs, stage: str) -> Scores | None:
    """What was measured of a stage and of the original; None if that was nothing.

    Bits per byte, where all texts have them; else the loss per token.
    """
    steps = StageSteps(outputs, stage)
    measured = (StageSteps(outputs, "original").measure, steps.measure_cut, steps.measure)
    original, cut, result = (each["heldout"] if each else {} for each in measured)
    found = [original, cut, result] if result else [original, {}, cut]
    texts = list(dict.fromkeys(text for losses in found for text in losses))
    every = [loss for losses in found for loss in losses.values()]
    tasks = _tasks(outputs, stage)
    if not every:
        return Scores("", (), tasks) if tasks else None
    key = "bits_per_byte"
    unit = "bits per byte"
    if any(loss[key] is None for loss in every):
        key, unit = "loss_per_token", "nats per token of each model's own vocabulary"
    else:
        predicted = {loss["predicts"] for loss in every}
        if "what is taken out" in predicted:
            unit += " of the 64 characters after 192"
        if predicted == {"answers"}:
            unit += " of the answers of conversations alone"
        elif "answers" in predicted:
            unit += "; of conversations, of the answers alone"
    rows = (
        TextScores(text, *(losses[text][key] if text in losses else None for losses in found))
        for text in texts
    )
    return Scores(unit, tuple(rows), tasks)


def _tasks(outputs: Outputs, stage: str) -> tuple[TaskScores, ...]:
    """The scores of a stage on tasks, with those of the original; empty if it was not evaluated."""
    evaluated = (StageSteps(outputs, name).evaluate for name in ("original", stage))
    before, after = (shown_scores(each) if each else [] for each in evaluated)
    originals = {each["task"]: TaskScore(each["value"], each["error"]) for each in before}
    return tuple(
        TaskScores(
            each["task"], each["metric"], each["questions"], originals.get(each["task"]),
            TaskScore(each["value"], each["error"]),
        )
        for each in after
    )  # fmt: skip
