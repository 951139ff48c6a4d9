"""Propose a recipe under a parameter budget, for the user to read and edit."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.files import from_home
from regrow.surgery.budget import PlannedStage, plan_sizes, plan_stages
from regrow.vocabulary.kept_tokens import check_vocabulary
from regrow.vocabulary.vocabulary_spec import VocabularySpec

_OPTIONS = {
    "layer": "layers", "hidden": "hidden", "ffn": "ffn", "head": "heads", "kv_head": "kv_heads",
    "vocab": "vocab_size",
}  # fmt: skip
_RECOVERY_TOKENS = 10_000_000


@dataclass(frozen=True)
class Plan:
    """Stages that meet a parameter budget, and their recipe.

    Attributes:
        model: The model as the user named it.
        parameters_before, parameters: Of the original and of the result.
        stages: The sizes after each stage.
        recipe: The recipe, YAML text.
        notes: What the plan does not cut, and why; and what a run will add.
    """

    model: str
    parameters_before: int
    parameters: int
    stages: tuple[PlannedStage, ...]
    recipe: str
    notes: tuple[str, ...] = ()


def propose(model: ModelDirectory, budget: int, model_name: str) -> Plan:
    """Stages to at most `budget` parameters, by the sizes that should cost the least quality.

    Only sizes that the config class accepts are proposed (`regrow.surgery.budget.plan_sizes`). The
    parameter counts are exact.

    `model_name`: the model as the user named it, for the recipe.

    Raises UserError if the budget cannot be met.
    """
    layout = model.layout
    sizes = plan_sizes(layout, budget)
    notes = []
    if model.is_config_only:
        notes.append("planned from the config alone: the tokenizer may need more tokens")
    elif "vocab" in sizes:
        try:
            spec = VocabularySpec(size=sizes["vocab"])
            check_vocabulary(model.path, layout, spec)
        except UserError as error:
            notes.append(f"the vocabulary stays whole: {error}")
            sizes = plan_sizes(layout, budget, uncut=frozenset({"vocab"}))
    if layout.blueprint.is_encoder_decoder:
        notes.append(
            "an encoder-decoder recovers by span corruption; a run gives it the sentinels "
            "(<extra_id_0>, ...) that its tokenizer lacks"
        )
    stages = tuple(plan_stages(layout, sizes))
    return Plan(
        model_name, layout.parameters(), stages[-1].parameters, stages,
        _recipe_text(model_name, layout, stages), tuple(notes),
    )  # fmt: skip


def _recipe_text(model: str, layout: Layout, stages: tuple[PlannedStage, ...]) -> str:
    """The recipe as YAML. It is written by hand, so that it can hold comments with the counts."""
    before = layout.parameters()
    # Paths in a recipe are relative to its own directory, which is not known yet.
    local = from_home(Path(model))
    lines = [
        f"# {before:,} -> {stages[-1].parameters:,} parameters",
        "name: pruned",
        f"model: {_scalar(str(local.absolute()) if local.exists() else model)}",
        "data:",
        "  train: train.jsonl           # your text: .jsonl with a key text, or .txt",
        "  heldout:",
        "    domain: heldout.jsonl      # measured after every step; not in train",
        "prompts: []",
        "stages:",
    ]
    for stage in stages:
        share = stage.parameters / before
        cut = ", ".join(f"{option}: {value}" for option, value in _cut(layout, stage).items())
        name = f"  - name: {stage.name.replace(' ', '-')}"
        lines += [
            f"{name:<30} # {stage.parameters:,} parameters remain, {share:.0%}",
            f"    cut: {{{cut}}}",
        ]
        lines.append(f"    recover: {{tokens: {_RECOVERY_TOKENS:_}}}")
    return "\n".join(lines) + "\n"


def _cut(layout: Layout, stage: PlannedStage) -> dict[str, str]:
    """The cut of a stage: its options by key, as YAML."""
    options: dict[str, dict[str | None, int]] = {}
    for name, size in stage.sizes.items():
        if size < layout.sizes[name]:
            axis = layout.blueprint.axis(name)
            options.setdefault(_OPTIONS[axis.kind], {})[axis.stack] = size
    shown = {}
    for option, by_stack in options.items():
        sizes = set(by_stack.values())
        fields = {
            layout.blueprint.axis(n).field.path
            for n in stage.sizes
            if _OPTIONS[layout.blueprint.axis(n).kind] == option
        }
        if len(fields) == 1 and len(sizes) == 1:
            shown[option] = str(sizes.pop())
        else:
            inner = ", ".join(f"{stack}: {size}" for stack, size in by_stack.items())
            shown[option] = f"{{{inner}}}"
    return shown


def _scalar(text: str) -> str:
    return yaml.safe_dump(text, default_flow_style=True).strip().removesuffix("\n...").strip()
