"""The model card of a result: `README.md`, with metadata that the Hugging Face hub reads.

The card is computed from the history of the model, its config, and what was measured. Text that
comes from other people's models is escaped. What is not known is left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from regrow.checkpoint.companions import CARD_FILE, HISTORY_FILE
from regrow.checkpoint.history import Base, Change, History, history_bytes
from regrow.common import numbers
from regrow.common.printable import as_markdown, printable
from regrow.models.networks import own_code

_CLASS_OF_ENDING = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
}
"""The Auto class of transformers by the ending of the name of the model class."""
_AXES = {"layer": "layers", "hidden": "hidden size", "ffn": "feed-forward size",
         "expert": "experts of a layer", "head": "heads", "kv_head": "key-value heads",
         "vocab": "vocabulary"}  # fmt: skip


@dataclass(frozen=True)
class TextScores:
    """What was measured on one held-out text; None for what was not.

    Attributes:
        text: The name of the text.
        original: Of the model that the run began with.
        cut: Of the cut model, before its training.
        result: Of the model itself.
    """

    text: str
    original: float | None
    cut: float | None
    result: float | None


@dataclass(frozen=True)
class TaskScore:
    """The score of a model on a task; `error`: its standard error, None if it is not known."""

    value: float
    error: float | None


@dataclass(frozen=True)
class TaskScores:
    """What was measured on one task of lm-eval.

    Attributes:
        task, metric: As lm-eval names them.
        questions: How many were asked.
        original: Of the model that the run began with; None if it was not measured.
        result: Of the model itself.
    """

    task: str
    metric: str
    questions: int
    original: TaskScore | None
    result: TaskScore


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes:
        unit: Of the numbers of texts, of which less is better.
        texts: Held-out texts.
        tasks: Tasks of lm-eval.
    """

    unit: str
    texts: tuple[TextScores, ...]
    tasks: tuple[TaskScores, ...] = ()


def description(history: History, config: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that describe a model: its history and its card. `config`: config.json."""
    return {HISTORY_FILE: history_bytes(history), CARD_FILE: model_card(history, config)}


def model_card(history: History, config: Mapping[str, Any], scores: Scores | None = None) -> bytes:
    """The card as UTF-8. The same arguments and version give the same bytes.

    Args:
        history: of the model.
        config: the contents of its config.json.
        scores: what was measured; None if nothing was.
    """
    from huggingface_hub import ModelCard

    sections = [
        _head(history), _sizes(history), _steps(history), _scores(scores), _load(history, config),
        _recipe(history), _licence(history.base),
    ]  # fmt: skip
    tasks = scores.tasks if scores is not None else ()
    metadata = _metadata(history, config, tasks).to_yaml(line_break="\n")
    body = "\n\n".join(section for section in sections if section)
    # Read back as the hub does, so that metadata that does not parse is an error here.
    return str(ModelCard(f"---\n{metadata}\n---\n\n{body}\n")).encode()


def _metadata(history: History, config: Mapping[str, Any], tasks: Sequence[TaskScores]) -> Any:
    """The metadata of the card, `ModelCardData` of huggingface_hub."""
    from huggingface_hub import EvalResult, ModelCardData

    base = history.base
    card = {} if base.random_weights else dict(base.card)
    kinds = {step.kind for step in history.steps}
    own = None if base.random_weights else base.hub_id
    task = card.pop("pipeline_tag", None)
    if task is None and _auto_class(history, config) == "AutoModelForCausalLM":
        task = "text-generation"
    # The hub has no word for a smaller version. Further training it calls finetune.
    relation = "finetune" if own and "training" in kinds else None
    tags = ["regrow", *(["pruned"] if "cut" in kinds else []),
            *(["distillation"] if _is_distilled(history) else [])]  # fmt: skip
    measured: dict[str, Any] = {}
    if tasks:
        kind = task or "text-generation"
        measured["model_name"] = _title(history)
        measured["eval_results"] = [
            EvalResult(
                task_type=kind, dataset_type=each.task, dataset_name=each.task,
                metric_type=each.metric, metric_value=round(each.result.value, 4),
            )
            for each in tasks
        ]  # fmt: skip
    return ModelCardData(
        **card, base_model=own, base_model_relation=relation, pipeline_tag=task,
        library_name="transformers", tags=tags, **measured,
    )  # fmt: skip


def _is_distilled(history: History) -> bool:
    return any(step.settings.get("recover", {}).get("distill") for step in history.steps)


def _head(history: History) -> str:
    base = history.base
    link, made = _link(base), f"regrow {version('regrow')}"
    if base.random_weights:
        return (
            f"# {as_markdown(_title(history))}\n\n"
            f"Config and tokenizer are those of {link}. The weights were drawn at random, and "
            f"trained with {made}."
        )
    kinds = {step.kind for step in history.steps}
    what = "smaller version" if "cut" in kinds else "version" if kinds else "copy"
    return (
        f"# {as_markdown(_title(history))}\n\nA {what} of {link}, made with {made}. This card "
        "describes the result; the card of the original does not hold for it."
    )


def _title(history: History) -> str:
    """A name of the model that says how it differs from its base."""
    name, kinds = history.base.name, {step.kind for step in history.steps}
    if history.base.random_weights:
        return f"The architecture of {name}, trained from random weights"
    if "cut" in kinds:
        return f"{name}, pruned to {numbers.count(history.parameters)} parameters"
    if "training" in kinds:
        return f"{name}, trained further"
    return f"{name} with more tokens" if kinds else name


def _link(base: Base) -> str:
    name = as_markdown(base.hub_id or base.name)
    file = f" (converted from {as_markdown(base.file)})" if base.file else ""
    if base.hub_id is None:
        return f"{name}{file}"
    at = f" at commit {base.revision[:12]}" if base.revision else ""
    return f"[{name}](https://huggingface.co/{base.hub_id}){at}{file}"


def _sizes(history: History) -> str:
    before, after = history.base, history.sizes
    rows = [("parameters", before.parameters, history.parameters)]
    rows += [
        (_axis(name), before.sizes[name], size)
        for name, size in after.items()
        if name in before.sizes
    ]
    lines = [
        f"| {as_markdown(name)} | {old:,} | {new:,} | {_change(old, new)} |"
        for name, old, new in rows
    ]
    return "## Sizes\n\n" + _table(("", "original", "this model", "change"), lines)


def _change(old: int, new: int) -> str:
    return "" if old == new else numbers.change(old, new, 1)


def _axis(name: str) -> str:
    stack, _, kind = name.rpartition(".")
    words = _AXES.get(kind.removeprefix("cross_"), kind)
    words = f"cross-attention {words}" if kind.startswith("cross_") else words
    return f"{stack} {words}".strip()


def _steps(history: History) -> str:
    if not history.steps:
        return ""
    lines = [f"{number}. {_step(each)}" for number, each in enumerate(history.steps, start=1)]
    return "## Steps\n\n" + "\n".join(lines)


def _step(step: Change) -> str:
    kind = {"cut": "Cut", "tokens": "Tokens", "training": "Training"}[step.kind]
    left = "" if step.kind == "training" else f" {numbers.count(step.parameters)} parameters."
    return f"{kind}: {as_markdown(step.words)}.{left}"


def _scores(scores: Scores | None) -> str:
    if scores is None:
        return ""
    tables = [_texts(scores) if scores.texts else "", _tasks(scores.tasks) if scores.tasks else ""]
    found = "\n\n".join(table for table in tables if table)
    return f"## Measured\n\n{found}" if found else ""


def _texts(scores: Scores) -> str:
    columns = {
        "original": [each.original for each in scores.texts],
        "cut, before training": [each.cut for each in scores.texts],
        "this model": [each.result for each in scores.texts],
    }
    shown = {name: values for name, values in columns.items() if any(v is not None for v in values)}
    lines = []
    for number, each in enumerate(scores.texts):
        cells = " | ".join(numbers.decimal(values[number], 3) for values in shown.values())
        lines.append(f"| {as_markdown(each.text)} | {cells} |")
    table = _table(("held-out text", *shown), lines)
    return f"{table}\n\n{scores.unit[:1].upper()}{scores.unit[1:]}; less is better."


def _tasks(tasks: Sequence[TaskScores]) -> str:
    lines = [
        f"| {as_markdown(each.task)}, {as_markdown(each.metric)} | {each.questions:,} | "
        f"{_task_score(each.original)} | {_task_score(each.result)} |"
        for each in tasks
    ]
    table = _table(("task of lm-eval", "questions", "original", "this model"), lines)
    return f"{table}\n\nWith standard errors."


def _task_score(score: TaskScore | None) -> str:
    if score is None:
        return ""
    error = "" if score.error is None else f" ± {score.error:.3f}"
    return f"{score.value:.3f}{error}"


def _table(head: Sequence[str], lines: Sequence[str]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join([f"| {' | '.join(head)} |", f"| {' | '.join(rule)} |", *lines])


def _load(history: History, config: Mapping[str, Any]) -> str:
    auto = _auto_class(history, config)
    trusts = bool(own_code(str(config.get("model_type"))))
    more = ", trust_remote_code=True" if trusts else ""
    code = (
        f"from transformers import {auto}, AutoTokenizer\n\n"
        'path = "."  # this directory, or its name on the hub\n'
        f"model = {auto}.from_pretrained(path{more})\n"
        f"tokenizer = AutoTokenizer.from_pretrained(path{more})"
    )
    why = (
        "transformers does not have this architecture; the directory holds its code.\n\n"
        if trusts
        else ""
    )
    return f"## Load it\n\n{why}```python\n{code}\n```"


def _auto_class(history: History, config: Mapping[str, Any]) -> str:
    """The Auto class of transformers that loads the model."""
    named = (config.get("architectures") or [""])[0]
    if "vision_config" in config:
        return "AutoModelForImageTextToText"
    for ending, auto in _CLASS_OF_ENDING.items():
        if str(named).endswith(ending):
            return auto
    if config.get("is_encoder_decoder") or any("encoder." in name for name in history.sizes):
        return "AutoModelForSeq2SeqLM"
    return "AutoModel" if str(named).endswith("Model") else "AutoModelForCausalLM"


def _recipe(history: History) -> str:
    """The settings of all steps as a recipe has them, without paths."""
    import yaml

    stages = [dict(step.settings) for step in history.steps if step.settings]
    if not stages:
        return ""
    distinct = json.loads(json.dumps(stages))  # YAML would write what occurs twice as a reference
    text = yaml.safe_dump({"stages": distinct}, sort_keys=False, allow_unicode=True, width=88)
    fence = "```"
    while fence in text:
        fence += "`"
    which = "the steps" if len(stages) == len(history.steps) else "those steps that a recipe has"
    return (
        f"## How it was made\n\nThe settings of {which}, by the keys of a recipe of regrow "
        f"{version('regrow')}:\n\n{fence}yaml\n{printable(text)}{fence}"
    )


def _licence(base: Base) -> str:
    named = base.card.get("license_name") or base.card.get("license")
    if not named:
        return ""
    link = base.card.get("license_link")
    where = f", {as_markdown(str(link))}" if link else ""
    of = "Config and tokenizer are" if base.random_weights else "The original is"
    return f"## Licence\n\n{of} under the licence {as_markdown(str(named))}{where}."
