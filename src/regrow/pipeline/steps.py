"""The steps of a recipe, their inputs, and what a changed recipe invalidates."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regrow.common.errors import UserError
from regrow.common.files import read_json_object
from regrow.corpus.sources import Source
from regrow.cuts.cut import Cut
from regrow.pipeline.ledger import Entry, Step, differences, step_after
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.task_steps import EVALUATE, evaluate_inputs
from regrow.scoring.score_file import file_sha256
from regrow.surgery.cut_spec import CutSpec
from regrow.training.settings import RecoverySettings
from regrow.writing.prompts import prompts_sha256, read_prompts

WRITE = "original/write"
"""The step in which the original writes training text."""
WRITTEN_FILE = "written.jsonl"
"""The text that the original wrote, in the directory of a run."""
REFERENCES = "original/references"
"""The step that measures the original's losses, which mixtures try to reach again."""
SPEED = "speed"
"""The step that measures how fast the original and the models of the stages generate."""
UNCHAINED = ("recipe", "texts", REFERENCES, SPEED)
"""Steps that are done again if they change, and that no other step depends on by its key."""
RESULTS = 16
"""Increase this if the same recipe gives another result, for example by a changed default.

It enters all keys, so earlier runs become invalid.
"""
STAGES = "stages"
"""The directory of the stages inside the directory of a run."""
CONTROL, AT_ONCE = "control", "at-once"
"""The comparisons: the original trained on the same tokens, and all cuts made in one."""
TRAINING_FILE = "training.json"
"""The file beside the checkpoints of a recovery, with the key and the inputs of its step."""
_MEASURING = {
    "losses": frozenset({"measure", "measure-cut"}),
    "answers": frozenset({"answers"}),
    "tasks": frozenset({EVALUATE}),
}
"""The kinds of steps that only measure a model, by what they measure."""


@dataclass(frozen=True)
class TextHashes:
    """Hashes of the texts of a recipe.

    Attributes:
        train: Of the training text.
        heldout: Of the held-out texts, by name.
        conversations: Of the conversations of stages that have their own, by stage.
    """

    train: str
    heldout: Mapping[str, str]
    conversations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """The parts of a run that no longer match its recipe.

    Attributes:
        entries: Entries of steps that are done.
        trainings: Stages with an unfinished recovery that has other inputs.
        reasons: What changed, as text.
    """

    entries: tuple[Entry, ...]
    trainings: tuple[str, ...]
    reasons: tuple[str, ...]

    def words(self, dropped: Collection[str] = ()) -> str:
        """The invalid parts, as text: `width, original (losses), depth (answers)`.

        `dropped`: stages that will not be done again, named `control (dropped)`.
        """
        by_stage: dict[str, set[str]] = {stage: {"recover"} for stage in self.trainings}
        for entry in self.entries:
            by_stage.setdefault(entry.stage, set()).add(entry.kind)
        return ", ".join(
            f"{stage} (dropped)" if stage in dropped
            else f"{stage} ({_measured(done)})" if done <= frozenset().union(*_MEASURING.values())
            else f"{stage} (written text)" if done == {"write"}
            else stage
            for stage, done in by_stage.items()
        )  # fmt: skip


def _measured(kinds: Collection[str]) -> str:
    """What steps of these kinds measured: `losses`, `answers`, `tasks`, or several of them."""
    return " and ".join(word for word, those in _MEASURING.items() if those & set(kinds))


def plan_steps(
    recipe: Recipe,
    model: Mapping[str, str],
    hashes: TextHashes,
    text: str,
    comparisons: Sequence[Stage] = (),
    questions: str = "",
) -> dict[str, Step]:
    """All steps by name, in order; the steps of comparisons are last, and then the speed.

    Args:
        recipe: the recipe.
        model: hashes of the original.
        hashes: those of the texts.
        text: a hash of the text of the recipe.
        comparisons: further stages, which start from the original.
        questions: a hash of the questions of the tasks.
    """
    measuring: dict[str, Any] = {"heldout": hashes.heldout}
    # What mixtures follow; conversations are measured, but no mixture follows them.
    following: dict[str, Any] = {
        "heldout": {n: found for n, found in hashes.heldout.items() if n in recipe.data.heldout}
    }
    if recipe.data.special_tokens:
        measuring["special_tokens"] = following["special_tokens"] = True
    answering = {"prompts": recipe.prompts, "answer_tokens": recipe.answer_tokens}
    evaluating = evaluate_inputs(recipe, questions)
    training = {"train": hashes.train, "seed": recipe.seed}
    facts = {"conversations": hashes.conversations} if hashes.conversations else {}
    first = step_after(None, "original", {"model": model, "results": RESULTS})
    writing = written_inputs(recipe)
    steps = [
        *([step_after(first, WRITE, writing)] if writing else []),
        step_after(None, "recipe", {"text": text}),
        step_after(None, "texts", {"train": hashes.train, **facts, **measuring}),
        first,
        step_after(first, "original/measure", measuring),
        step_after(first, "original/answers", answering),
        *([step_after(first, f"original/{EVALUATE}", evaluating)] if evaluating else []),
    ]
    recoveries = [stage.recover for stage in (*recipe.stages, *comparisons) if stage.recover]
    references = sorted({key for settings in recoveries for key in reference_keys(settings)})
    if references:
        inputs = {"references": references, "domains": [s.name for s in recipe.data.sources]}
        steps.append(step_after(first, REFERENCES, {**inputs, **following}))
    last = first
    for stage in recipe.stages:
        learned = dict(training)
        if stage.name in hashes.conversations:
            learned = {"conversations": hashes.conversations[stage.name], "seed": recipe.seed}
        elif stage.recover is not None and stage.recover.mixtures:
            learned |= following
        new = _stage_steps(stage, last, (training, learned), measuring)
        steps += new
        last = next(step for step in reversed(new) if step.kind in ("carve", "recover"))
        # No later step follows this one, so that other prompts change only the answers.
        steps.append(step_after(last, f"{stage.name}/answers", answering))
        if evaluating:
            steps.append(step_after(last, f"{stage.name}/{EVALUATE}", evaluating))
    for stage in comparisons:
        followed = following if stage.recover is not None and stage.recover.mixtures else {}
        learned = {**training, **followed}
        steps += _stage_steps(stage, first, (training, learned), measuring)
    if any(stage.cut is not None for stage in recipe.stages):
        # A training alone changes no shape, so it changes no speed.
        steps.append(step_after(last, SPEED, {}))
    return {step.name: step for step in steps}


def written_inputs(recipe: Recipe) -> dict[str, Any]:
    """What decides the text that the original writes, beside the original; empty without one."""
    source = recipe.data.written
    if source is None:
        return {}
    return {"train": {source.name: writing_facts(source)}, "seed": recipe.seed}


def writing_facts(source: Source) -> dict[str, Any]:
    """What a source says about the text that a model writes; settings with a default are left out.

    Reads the prompts.
    """
    facts: dict[str, Any] = {"tokens": source.tokens}
    if source.prompts is not None:
        facts["prompts"] = prompts_sha256(read_prompts(source.prompts))
    if source.temperature != Source.model_fields["temperature"].default:
        facts["temperature"] = source.temperature
    if source.languages:
        facts["languages"] = sorted({*source.languages})
    return facts


def _stage_steps(
    stage: Stage,
    last: Step,
    texts: tuple[Mapping[str, Any], Mapping[str, Any]],
    measuring: Mapping[str, Any],
) -> list[Step]:
    """The steps of one stage.

    `last`: the step that made the model from which the stage starts. `texts`: the inputs of a cut
    and of a recovery. `measuring`: those of measuring.
    """
    steps = []
    training, learned = texts
    if stage.cut is not None:
        cut, decisive = (_cut_inputs(stage.cut, every_key=each) for each in (True, False))
        last = step_after(
            last, f"{stage.name}/carve", {"cut": cut, **training}, {"cut": decisive, **training}
        )
        # Without a recovery the cut model is the result of the stage, whose speed is measured.
        cut_measuring = {**measuring, "speed": stage.recover is None}
        steps += [last, step_after(last, f"{stage.name}/measure-cut", cut_measuring)]
    if stage.recover is not None:
        settings, decisive = (stage.recover.decisive(every_key=each) for each in (True, False))
        last = step_after(
            last, f"{stage.name}/recover", {"recover": settings, **learned},
            {"recover": decisive, **learned},
        )  # fmt: skip
        steps += [last, step_after(last, f"{stage.name}/measure", measuring)]
    return steps


def _cut_inputs(spec: CutSpec, *, every_key: bool) -> dict[str, Any]:
    """The inputs of a cut, as JSON values; `every_key`: also keys that hold their default."""
    if spec.cut is not None:
        # The file says what is cut. The other settings of a cut file are those of its refit.
        refitting = spec.model_dump(
            mode="json",
            include={"refit", "refit_passes", "calibration_tokens"},
            exclude_defaults=not every_key,
        )
        return {"cut": Cut.load_named(spec.cut).to_json(), **refitting}
    found = spec.model_dump(mode="json", exclude={"cut", "vocab"}, exclude_defaults=not every_key)
    if spec.scores is not None:
        found["scores"] = file_sha256(spec.scores)
    return found if spec.vocab is None else {**found, "vocab": spec.vocab.identity}


def control_settings(recipe: Recipe) -> RecoverySettings | None:
    """The settings of the last recovery with the tokens of all; None without a recovery.

    Recoveries on conversations of their own do not count, since the text of the others is another.
    """
    settings = [
        stage.recover for stage in recipe.stages if stage.recover is not None and stage.data is None
    ]
    if not settings:
        return None
    tokens = sum(each.tokens for each in settings)
    return settings[-1].model_copy(update={"tokens": tokens})


def reference_keys(settings: RecoverySettings) -> dict[str, str]:
    """The kind of mixture (`denoiser`, `domain`) by the ledger's name of its reference losses.

    Mixtures whose settings give references are left out, since nothing is measured for them.
    """
    prefix = "" if settings.prefix == "causal" else f", {settings.prefix} prefix"
    rows = f"{settings.mixture_tokens:,} tokens in rows of {settings.row_length:,}"
    return {
        f"{kind}, {rows}{prefix if kind == 'denoiser' else ''}": kind
        for kind, mixing in settings.mixtures.items()
        if mixing.references is None
    }


def find_changes(steps: Mapping[str, Step], entries: Mapping[str, Entry], out: Path) -> Changes:
    """Compare the entries and unfinished trainings in `out` with the steps of the recipe."""
    stale: list[Entry] = []
    trainings: list[str] = []
    reasons: list[str] = []
    for name, entry in entries.items():
        step = steps.get(name)
        if name in UNCHAINED or (step is not None and step.key == entry.key):
            continue
        stale.append(entry)
        if step is None and entry.kind == EVALUATE:
            reasons.append("evaluate is no longer there")
        elif step is None:
            reasons.append(f"{entry.stage} is no longer there")
        else:
            reasons += _describe_changes(entry.inputs, step.inputs, entry.stage)
    for path in sorted((out / STAGES).glob(f"*/{TRAINING_FILE}")):
        stage = path.parent.name
        step = steps.get(f"{stage}/recover")
        begun = _read_begun(path)
        if step is None:
            trainings.append(stage)
            reasons.append(f"{stage} is no longer there")
        elif step.key != begun["key"]:
            trainings.append(stage)
            reasons += _describe_changes(begun["inputs"], step.inputs, stage)
    return Changes(tuple(stale), tuple(trainings), tuple(dict.fromkeys(reasons)))


def _read_begun(path: Path) -> dict[str, Any]:
    """The key and the inputs of an unfinished training. Raises UserError if the file is damaged."""
    begun = read_json_object(path)
    if not isinstance(begun.get("key"), str) or not isinstance(begun.get("inputs"), dict):
        raise UserError(
            f"{path}: has no key and inputs of a training; remove {path.parent / 'training'} and "
            "this file to train this stage again"
        )
    return begun


def _describe_changes(old: Mapping[str, Any], new: Mapping[str, Any], stage: str) -> list[str]:
    """The changed inputs by their keys in a recipe: `depth.cut.layers: 3 -> 2`."""
    found = []
    for text in differences(old, new):
        key = text.partition(".")[0].partition(":")[0]
        if key == "results":
            found.append("another version of regrow, which gives other results, made these")
            continue
        prefixes = {
            "cut": f"{stage}.",
            "recover": f"{stage}.",
            "train": "data.",
            "heldout": "data.",
            "conversations": f"{stage}.data.",
        }
        found.append(prefixes.get(key, "") + text)
    return found
