"""Train one model, as a run of one stage: pre-training, recovery or fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress
from regrow.common.run_directory import LEDGER_FILE
from regrow.common.validation_errors import validated
from regrow.pipeline.finished import already_words, finished_result
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.outcomes import recovery_outcome
from regrow.pipeline.recipe import Data, Recipe, Stage
from regrow.pipeline.run_plan import RunOptions
from regrow.pipeline.stage_steps import StageSteps
from regrow.pipeline.steps import STAGES
from regrow.pipeline.summary import heldout_curve
from regrow.report.outcomes import worse_lines
from regrow.training.settings import TRAINED, RecoverySettings

_STAGE = "train"
SETTINGS_KEY = f"stages: {_STAGE}: recover."
"""What stands before the key of a setting in an error."""


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        model: A plain Hugging Face directory.
        report: The path of the report, an HTML page.
        curve: For each step, the tokens trained after it, and the loss before its update, in nats
            per predicted token.
        heldout: The tokens trained and the loss on the first held-out text, in `unit`, from before
            the training to its end.
        unit: `bits per byte`, or `nats per token` of an encoder-decoder.
        tokens: Tokens of text trained on.
        seconds: Wall time, summed over all calls of this training.
        skipped: Steps without an update.
        notes: What got worse, and which weights the model then has; empty if nothing did.
    """

    model: Path
    report: Path
    curve: list[tuple[int, float]]
    heldout: list[tuple[int, float]]
    unit: str
    tokens: int
    seconds: float
    skipped: int
    notes: tuple[str, ...]


def training_recipe(
    model: str,
    text: list[Path],
    heldout: Path | None,
    settings: Mapping[str, Any],
    seed: int = 0,
    *,
    special_tokens: bool = False,
    text_key: str = "text",
) -> Recipe:
    """A recipe with one stage, which only trains.

    Args:
        model: a directory, a GGUF file, or a hub id.
        text: files or directories of training text.
        heldout: a file or a directory of held-out text; None puts a part of the text aside.
        settings: keys of `regrow.training.settings.RecoverySettings`.
        seed: decides data order and initial weights.
        special_tokens: whether the names of special tokens in the texts stand for the tokens.
        text_key: the key of the text in `.jsonl` files, and its column in `.parquet`.

    Raises:
        UserError: a setting is unknown or not valid.
    """
    try:
        recover = validated(RecoverySettings, settings)
    except UserError as error:
        raise error.within(SETTINGS_KEY) from None
    named = {} if heldout is None else {"heldout": {"heldout": heldout}}
    data = Data(train=list(text), special_tokens=special_tokens, text_key=text_key, **named)
    recipe = Recipe.model_construct(
        name=_STAGE, model=model, seed=seed, threads=None, data=data, prompts=[],
        answer_tokens=1, stages=[Stage(name=_STAGE, recover=recover)],
    )  # fmt: skip
    if recipe.reads_conversations:
        try:
            data.check_conversations()
        except ValueError as error:
            key, _, problem = str(error).partition(": ")
            raise UserError(problem, key=f"data.{key}") from None
    return recipe


def train_model(
    recipe: Recipe,
    out: Path,
    *,
    stage: str | None = None,
    options: RunOptions,
    progress: Progress = QUIET,
) -> Trained:
    """Train the model of a recipe with the settings of one stage, in the directory `out`.

    It is a run of that stage alone, with a ledger and a report. A training that was killed
    continues when it is called again.

    `stage`: the name of the stage; needed if the recipe has several.

    Raises UserError if the stage does not only train, the training is not possible, or `out` holds
    another training.
    """
    chosen = _training_stage(recipe, stage)
    alone = _alone(recipe, chosen)
    result = finished_result(alone, out, options)
    if result is None:
        from regrow.pipeline.run import run  # imports torch, which takes seconds

        result = run(alone, out, options, progress)
    else:
        progress.say(already_words(result))
    entries = read_entries(out / LEDGER_FILE)
    steps = StageSteps(entries, chosen.name)
    outcome = recovery_outcome(entries, chosen.name, "original")
    trained_model = str(out / STAGES / chosen.name / TRAINED)
    heldout = heldout_curve(steps.recover, steps.measure, outcome)
    assert steps.recover is not None
    assert heldout is not None
    found = steps.recover.outputs
    names = (*recipe.heldout_of(chosen.name), *heldout.texts)
    first = next((name for name in names if name in heldout.texts), None)
    return Trained(
        model=result.model,
        report=result.report,
        curve=[(tokens, loss) for tokens, loss in found["curve"]],
        heldout=list(heldout.texts[first]) if first is not None else [],
        unit=heldout.unit,
        tokens=found["tokens"],
        seconds=found["seconds"]["recover"],
        skipped=found["skipped"],
        notes=tuple(worse_lines(outcome, trained_model, "training")) if outcome else (),
    )


def _alone(recipe: Recipe, stage: Stage) -> Recipe:
    """The recipe with this stage alone.

    A stage with conversations of its own does not read what the original would have to write first.
    """
    changes: dict[str, Any] = {"stages": [stage]}
    given = [source for source in recipe.data.sources if source.model is None]
    if stage.data is not None and given:
        changes["data"] = recipe.data.model_copy(update={"train": given})
    return recipe.model_copy(update=changes)


def _training_stage(recipe: Recipe, name: str | None) -> Stage:
    """The stage of this name, or the only stage. Raises UserError if it does not only train."""
    found = [stage for stage in recipe.stages if name in (None, stage.name)]
    if len(found) != 1:
        names = ", ".join(each.name for each in recipe.stages)
        raise UserError(f"{'which of them' if found else f'no {name}'}? give {names}", key="stage")
    (stage,) = found
    if stage.cut is not None or stage.recover is None:
        does = "cuts" if stage.cut is not None else "trains nothing"
        raise UserError(f"stages: {stage.name}: {does}; regrow run does what this recipe says")
    if stage.recover.distill is not None:
        raise UserError(
            "learns from the model before a cut, and here is none; leave it out",
            key=f"stages: {stage.name}: recover.distill",
        )
    return stage
