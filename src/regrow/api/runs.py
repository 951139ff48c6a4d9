"""Preview a recipe, run it, train by it, and write its report."""

from __future__ import annotations  # so that help() shows them as they are written

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from regrow.api.arguments import Paths, check_names, names, number, open_model, paths
from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.pipeline.finished import Result
    from regrow.pipeline.preview import Preview
    from regrow.pipeline.recipe import Recipe
    from regrow.pipeline.train_model import Trained

T = TypeVar("T")


def preview(recipe: Path | str, *, progress: Progress = QUIET) -> Preview:
    """Compute what a recipe will do: sizes, parameters, training tokens and FLOPs of each stage.

    Neither weights nor texts are read. The recipe's model may be a directory with a config alone.
    If the trainings take longer than seconds, the speed of this machine is tried for some seconds,
    on layers of the model's shapes, and the result has the time that they will take.

    Args:
        recipe: a YAML file.
        progress: receives messages.

    Raises:
        UserError: the recipe is not valid, or a cut cannot be made.
    """
    from regrow.pipeline.preview import preview_recipe
    from regrow.pipeline.recipe_file import load_recipe

    loaded = load_recipe(Path(recipe))
    model = open_model(loaded.model, progress)
    return preview_recipe(loaded, model, timed=True, progress=progress)


def run(
    recipe: Path | str,
    out: Path | str | None = None,
    *,
    compare: str | Collection[str] = (),
    redo: bool = False,
    progress: Progress = QUIET,
) -> Result:
    """Run all stages of a recipe: score, cut, train and measure, then write a report.

    A run that was stopped continues where it stood when it is called again. Under torchrun, call it
    in every process: they train together, and the first process does the rest.

    Args:
        recipe: a YAML file.
        out: the directory of the run; None takes `runs/NAME`, with the name in the recipe.
        compare: what to train as well, on the same number of tokens: `"control"`, the original
            model; `"at-once"`, the original with all cuts made in one step.
        redo: if the recipe changed since the run began, do again the steps that this invalidates.
            Without it, a changed recipe is an error.
        progress: receives messages and the state of the run.

    Returns:
        The directory of the run, of the final model, and the path of the report.

    Raises:
        UserError: the recipe is not valid, its model or texts cannot be read, memory or disk are
            too small, or the recipe changed. What can be checked is checked before any training.
    """

    def work() -> Result:
        from regrow.pipeline.recipe_file import load_recipe

        path = Path(recipe)
        loaded = load_recipe(path)
        from regrow.pipeline.finished import already_words, finished_result
        from regrow.pipeline.run_plan import RunOptions

        options = RunOptions(path.read_text(encoding="utf-8"), names(compare), redo)
        directory = Path("runs") / loaded.name if out is None else Path(out)
        if (finished := finished_result(loaded, directory, options)) is not None:
            progress.say(already_words(finished))
            return finished
        from regrow.pipeline.run import run as run_recipe  # imports torch, which takes seconds

        return run_recipe(loaded, directory, options, progress)

    return _in_first_process(work)


def training_recipe(
    model: Path | str,
    text: Paths,
    heldout: Path | str | None = None,
    *,
    seed: int = 0,
    special_tokens: bool = False,
    text_key: str = "text",
    **settings: Any,
) -> Recipe:
    """A recipe that only trains, for `train`.

    The settings are those of `regrow.training.settings.RecoverySettings`, which docs/training.md
    explains, such as `tokens="1M"` and `learning_rate=1e-4`.

    Args:
        model: a directory, a GGUF file, or a hub id.
        text: one file of training text or several, or token stores.
        heldout: a text file that is measured, and not trained on. Without it, a part of the text is
            put aside for that.
        seed: decides data order, and the first weights of a training from scratch.
        special_tokens: whether the names of special tokens in the texts stand for the tokens.
        text_key: the key of the text in `.jsonl` files, and its column in `.parquet`.
        settings: see above.

    Raises:
        UserError: a setting is not valid.
    """
    from regrow.pipeline import train_model
    from regrow.training.settings import RecoverySettings

    check_names("training_recipe", settings, RecoverySettings.model_fields)
    try:
        return train_model.training_recipe(
            str(model), paths(text), None if heldout is None else Path(heldout), settings,
            number("seed", seed), special_tokens=special_tokens, text_key=text_key,
        )  # fmt: skip
    except UserError as error:
        raise error.at((error.key or "").removeprefix(train_model.SETTINGS_KEY) or None) from None


def train(
    recipe: Path | str | Recipe,
    out: Path | str,
    *,
    stage: str | None = None,
    from_scratch: bool = False,
    redo: bool = False,
    progress: Progress = QUIET,
) -> Trained:
    """Train the model of a recipe with the settings of one stage, without a cut.

    A training that was stopped continues from its last checkpoint when it is called again. Under
    torchrun, call it in every process.

    Args:
        recipe: a YAML file, or a `Recipe`, such as `training_recipe` makes.
        out: the directory of the training, with its ledger and report.
        stage: the name of the stage; needed if the recipe has several.
        from_scratch: start from random weights. The model then needs only a config and a
            tokenizer.
        redo: if settings changed since the training began, start it again. Without it, changed
            settings are an error.
        progress: receives messages and the state of the training.

    Returns:
        The directory of the model, the path of the report, the loss curves, tokens and seconds.

    Raises:
        UserError: the recipe is not valid, the stage does not only train, or `out` holds another
            training.
    """

    def work() -> Trained:
        from regrow.pipeline.recipe_file import load_recipe
        from regrow.pipeline.run_plan import RunOptions
        from regrow.pipeline.train_model import train_model

        loaded, text = recipe, ""
        if isinstance(loaded, Path | str):
            if Path(loaded).is_dir():
                raise UserError(
                    f"{loaded}: a recipe is wanted, not a directory; training_recipe makes one of "
                    "a model and texts"
                )
            text = Path(loaded).read_text(encoding="utf-8") if Path(loaded).is_file() else ""
            loaded = load_recipe(Path(loaded))
        options = RunOptions(text, redo=redo, from_scratch=from_scratch)
        return train_model(loaded, Path(out), stage=stage, options=options, progress=progress)

    return _in_first_process(work)


def write_report(directory: Path | str) -> Path:
    """Write the report of a run again, from its ledger.

    Args:
        directory: the directory of the run.

    Returns:
        The path of the page, `report.html` in that directory.

    Raises:
        UserError: the directory holds no run.
    """
    from regrow.pipeline.summary import summarise
    from regrow.report.page import write_page

    page = Path(directory) / "report.html"
    write_page(summarise(page.parent), page)
    return page


def _in_first_process(work: Callable[[], T]) -> T:
    """Do `work` in the first process; under torchrun, the others do the training it starts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return work()
    from regrow.training.distributed.processes import join_processes

    return join_processes().lead(work)
