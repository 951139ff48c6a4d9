"""Propose a recipe that meets a budget, for the user to read and edit."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.files import from_home
from regrow.common.numbers import rough_duration
from regrow.common.progress import QUIET, Progress
from regrow.corpus.reading import Reading
from regrow.pipeline.plan_spec import PlanSpec
from regrow.pipeline.proposed_training import (
    EMBEDDING_RATE,
    OwnText,
    ProposedTraining,
    propose_training,
)
from regrow.surgery.budget import Budget, byte_budget
from regrow.surgery.fixed_costs import plan_sizes
from regrow.surgery.plan import Plan, PlannedStage, plan_stages
from regrow.surgery.search.vocabulary_limit import least_vocabulary, vocabulary_problem
from regrow.surgery.size_options import options_for

if TYPE_CHECKING:
    from regrow.surgery.search.search import SizeSearch


def propose(
    model: ModelDirectory,
    spec: PlanSpec,
    model_name: str,
    *,
    text: Sequence[Path] = (),
    progress: Progress = QUIET,
) -> Plan:
    """Stages that meet a budget, by the sizes that cost the least quality.

    With a text, the cost of each axis is measured on it (`regrow.surgery.search`). Without one, the
    costs are fixed (`regrow.surgery.fixed_costs`). Only sizes that the config class accepts are
    proposed. Parameters and bytes are exact.

    `model_name`: the model as the user named it, for the recipe.

    Raises UserError if the budget cannot be met, or the text is too short.
    """
    layout = model.layout
    budget = spec.budget(model)
    notes: list[str] = []
    search = None
    if model.is_config_only:
        notes.append("planned from the config alone: the tokenizer may need more tokens")
    if spec.special_tokens and not text:
        raise UserError("no text is read; give a text, or leave it out", key="special_tokens")
    if text:
        search = _search(model, spec, budget, text, progress, notes)
        sizes: Mapping[str, int] = search.candidates[0].sizes
    elif budget is None:
        raise UserError("the speed of cuts is measured; give a text", key="text")
    else:
        sizes = plan_sizes(layout, budget)
        if "vocab" in sizes and not model.is_config_only:
            problem = vocabulary_problem(model, sizes["vocab"])
            if problem:
                notes.append(f"the vocabulary stays whole: {problem}")
                sizes = plan_sizes(layout, budget, uncut=frozenset({"vocab"}))
        notes.append("nothing was measured, the costs of the axes are fixed; a text measures them")
    notes += [*_uniform_sizes(layout)]
    if layout.blueprint.is_encoder_decoder:
        notes.append(
            "an encoder-decoder recovers by span corruption; a run gives it the sentinels "
            "(<extra_id_0>, ...) that its tokenizer lacks"
        )
    stages = tuple(plan_stages(layout, sizes))
    nbytes = byte_budget(model, 0).amount
    characters = None if search is None else search.characters
    training = propose_training(model, stages, spec, characters, progress)
    notes += training.notes()
    return Plan(
        model_name, layout.parameters(), stages[-1].parameters, nbytes({}), nbytes(sizes), stages,
        _recipe_text(_head(model_name, spec, text, training.own), layout, stages, training),
        tuple(notes), search, training.tokens, training.seconds,
    )  # fmt: skip


def _search(
    model: ModelDirectory,
    spec: PlanSpec,
    budget: Budget | None,
    text: Sequence[Path],
    progress: Progress,
    notes: list[str],
) -> "SizeSearch":
    """The sizes by measured costs; `notes` receives what stays whole."""
    from regrow.surgery.search.measure import CalibrationDraw
    from regrow.surgery.search.search import SearchRequest, search_sizes

    if model.is_config_only:
        raise UserError("cuts are measured, but the model has no weights", key="text")
    request = SearchRequest(
        budget, spec.tokens_per_second, text, CalibrationDraw(spec.calibration_tokens, spec.seed),
        spec.candidates, least_vocabulary(model, notes),
        Reading(special_tokens=spec.special_tokens),
    )  # fmt: skip
    return search_sizes(model, request, progress)


def _uniform_sizes(layout: Layout) -> list[str]:
    """A note about sizes that the config holds once for all layers."""
    fields: dict[str, list[str]] = {}
    for axis in layout.blueprint.axes:
        if axis.along and axis.field.path:
            fields.setdefault(axis.field.path, []).append(axis.name)
    if not fields:
        return []
    listed = ", ".join(f"{path} ({' and '.join(names)})" for path, names in fields.items())
    return [
        f"uniform sizes are the limit: the {layout.blueprint.model_type} config holds one number "
        f"for all layers of {listed}"
    ]


def _head(model: str, spec: PlanSpec, text: Sequence[Path], own: OwnText) -> list[str]:
    """The lines of a recipe above its stages.

    Paths in a recipe are relative to its own directory, which is not known yet. So they are
    absolute. `model`: as the user named it. `text`: what costs were measured on; it may be empty.
    `own`: what the original writes.
    """
    local = from_home(Path(model))
    seed = [] if spec.seed == PlanSpec.model_fields["seed"].default else [f"seed: {spec.seed}"]
    files = [_scalar(str(path.absolute())) for path in text] or ["train.jsonl"]
    comment = "what the plan was measured on" if text else "yours: .jsonl with a key text, or .txt"
    if own.tokens:
        train = [
            f"    - name: text                 # {comment}",
            "      path:",
            *(f"        - {file}" for file in files),
            f"      weight: {own.rest}",
            f"    - {{model: original, tokens: {own.tokens:_}, weight: 1}}  # what else it knows",
        ]
    else:
        train = [f"    - {file}" for file in files]
        train[0] = f"{train[0]:<30} # {comment}"
    if text:
        heldout = [
            "  # A part of it is put aside, and measured after every step. It is better to name a",
            "  # text from another source: heldout: {domain: heldout.jsonl}",
        ]
    else:
        heldout = [
            "  heldout:",
            "    domain: heldout.jsonl      # measured after every step; not in train",
        ]
    return [
        "name: pruned",
        f"model: {_scalar(str(local.absolute()) if local.exists() else model)}",
        *seed,
        "data:",
        "  train:",
        *train,
        *heldout,
        *(["  special_tokens: true"] if spec.special_tokens else []),
        "prompts: []",
    ]


def _recipe_text(
    head: Sequence[str],
    layout: Layout,
    stages: tuple[PlannedStage, ...],
    training: ProposedTraining,
) -> str:
    """The recipe as YAML. It is written by hand, so that it can hold comments with the counts.

    `head`: the lines above the stages.
    """
    before = layout.parameters()
    lines = [f"# {before:,} -> {stages[-1].parameters:,} parameters", *head, "stages:"]
    for number, stage in enumerate(stages):
        share = stage.parameters / before
        options = {**_cut(layout, stage), **training.refits[number].options()}
        cut = ", ".join(f"{option}: {value}" for option, value in options.items())
        name = f"  - name: {stage.name.replace(' ', '-')}"
        lines += [
            f"{name:<36} # {stage.parameters:,} parameters remain, {share:.0%}",
            f"    cut: {{{cut}}}",
        ]
        settings = f"tokens: {training.tokens[number]:_}, embedding_rate: {EMBEDDING_RATE}"
        recover = f"    recover: {{{settings}}}"
        if training.seconds:
            time = rough_duration(training.seconds[number]).replace("\u00a0", " ")
            recover = f"{recover}  # about {time} on the machine that planned this"
        lines.append(recover)
    return "\n".join(lines) + "\n"


def _cut(layout: Layout, stage: PlannedStage) -> dict[str, str]:
    """The cut of a stage: its options by key, as YAML."""

    def shown(value: Any) -> str:
        if not isinstance(value, Mapping):
            return str(value)
        return "{" + ", ".join(f"{stack}: {size}" for stack, size in value.items()) + "}"

    return {option: shown(value) for option, value in options_for(layout, stage.sizes).items()}


def _scalar(text: str) -> str:
    whole = yaml.safe_dump(text, default_flow_style=True, width=math.inf)
    return whole.strip().removesuffix("\n...").strip()
