"""`regrow train`: train one model, without a cut."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regrow.cli.commands import Sync, name_option
from regrow.cli.output import print_trained
from regrow.cli.progress_bars import is_first_process, run_progress
from regrow.common.errors import UserError
from regrow.common.publishing import durable

if TYPE_CHECKING:
    from regrow.pipeline.recipe import Recipe

_OPTIONS = {
    "data.train": "--text",
    "data.heldout.heldout": "--heldout",
    "data.heldout": "--heldout",
    "data.text_key": "--text-key",
    "data.special_tokens": "--special-tokens",
    "stages: train: recover.objective": "--objective",
    "stages: train: recover.lora": "--lora",
    "stages: train: recover.lora.alpha": "--set lora.alpha",
    "stages: train: recover.lora.targets": "--set lora.targets",
    "stages: train: recover": "--set",
}
"""The option that gives a key of the recipe that is made of options."""


def train(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RECIPE",
            help="A directory, a GGUF file or a hub id; or a .yaml recipe that trains.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the training.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Text, a directory of text, or a token store to train on; may be repeated.",
        ),
    ] = None,
    heldout: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text that is measured, not trained on. [default: some of --text, put aside]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of `recover` in docs/recipe.md; may be repeated.",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What is learned; `instructions`: conversations."),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(metavar="RANK", min=1, help="Train small matrices beside frozen weights."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides data order and first weights.")] = 0,
    special_tokens: Annotated[
        bool,
        typer.Option("--special-tokens", help="Names of special tokens in the text are tokens."),
    ] = False,
    text_key: Annotated[
        str, typer.Option("--text-key", metavar="KEY", help="Of the text in .jsonl and .parquet.")
    ] = "text",
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which stage, where a recipe has several.")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random weights.")
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Do again what changed settings invalidate.")
    ] = False,
    sync: Sync = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a model; safe to stop and to start again, alone or under torchrun."""
    from regrow import api
    from regrow.pipeline.train_model import training_recipe

    recipe: Path | Recipe
    options: Mapping[str, str]
    if what.endswith((".yaml", ".yml")):
        others = (text, heldout, settings, objective, lora, seed, special_tokens)
        if any(others) or text_key != "text":
            raise UserError(f"{what}: a recipe says all that; leave the other options out")
        recipe, options = Path(what), {}
    else:
        if not text:
            raise UserError("train: give --text, or a recipe")
        if stage is not None:
            raise UserError("--stage: only a recipe has stages; leave it out")
        options = _OPTIONS
        try:
            recipe = training_recipe(
                what,
                text,
                heldout,
                _with_options(named_settings(settings or []), objective, lora),
                seed,
                special_tokens=special_tokens,
                text_key=text_key,
            )
        except UserError as error:
            raise name_option(error, options) from None
    try:
        with durable(sync), run_progress() as progress:
            result = api.train(
                recipe, out, stage=stage, from_scratch=from_scratch, redo=redo, progress=progress
            )
    except UserError as error:
        raise name_option(error, options) from None
    if is_first_process():
        print_trained(result, as_json)


def _with_options(
    settings: dict[str, Any], objective: str | None, lora: int | None
) -> dict[str, Any]:
    """The settings with those that have options of their own.

    `--lora` gives the rank, and `--set` may give the rest.
    """
    found = dict(settings)
    if objective is not None:
        if "objective" in found:
            raise UserError("--objective: --set gives objective too; leave one out")
        found["objective"] = objective
    if lora is not None:
        others = found.get("lora", {})
        if not isinstance(others, dict) or "rank" in others:
            raise UserError("--lora: --set gives the rank too; leave one out")
        found["lora"] = {"rank": lora, **others}
    return found


def named_settings(given: list[str]) -> dict[str, Any]:
    """The settings of `--set a.b=1`, nested as in a recipe: `{"a": {"b": 1}}`."""
    import yaml

    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text}: not KEY=VALUE, such as tokens=1_000_000")
        *parents, last = key.strip().split(".")
        settings = found
        for name in parents:
            settings = settings.setdefault(name, {})
            if not isinstance(settings, dict):
                raise UserError(f"--set {text}: another --set gives {name} itself; leave one out")
        try:
            settings[last] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):
            raise UserError(f"--set {text}: not a value as a recipe has it") from None
    return found
