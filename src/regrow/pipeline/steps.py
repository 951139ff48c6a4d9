"""The steps of a recipe, what goes into each, and what a changed recipe invalidates."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from regrow.common.files import read_json_object
from regrow.pipeline.ledger import Entry, Step, differences, step_after
from regrow.pipeline.recipe import Recipe, Stage
from regrow.surgery.cut import Cut
from regrow.surgery.cut_spec import CutSpec
from regrow.training.settings import RecoverySettings

REFERENCES = "original/references"
"""The losses that mixtures are to get back to."""
UNCHAINED = ("recipe", "texts", REFERENCES)
"""Entries that are written anew when they change, and invalidate nothing themselves."""
RESULTS = 1
"""Raised where the same recipe begins to give another result, as by a default that changes."""
STAGES = "stages"
CONTROL, AT_ONCE = "control", "at-once"
"""Comparisons: the original on the same tokens, and all cuts made in one."""
TRAINING_FILE = "training.json"
"""Which recovery the checkpoints beside it belong to."""


@dataclass(frozen=True)
class Changes:
    """What does not fit the recipe any more.

    Attributes:
        entries: Of steps that were done.
        trainings: Stages whose half-done recovery is of other settings.
        reasons: What changed, in words.
    """

    entries: tuple[Entry, ...]
    trainings: tuple[str, ...]
    reasons: tuple[str, ...]

    def words(self, dropped: Collection[str] = ()) -> str:
        """All that is invalid: `width, original (losses), result (answers), control (dropped)`.

        `dropped`: stages that will not be made again.
        """
        by_stage: dict[str, set[str]] = {stage: {"recover"} for stage in self.trainings}
        for entry in self.entries:
            by_stage.setdefault(entry.stage, set()).add(entry.kind)
        return ", ".join(
            f"{stage} (dropped)" if stage in dropped
            else f"{stage} (losses)" if done <= {"measure", "measure-cut"}
            else f"{stage} (answers)" if done == {"samples"}
            else stage
            for stage, done in by_stage.items()
        )  # fmt: skip


def plan_steps(
    recipe: Recipe,
    model: Mapping[str, str],
    train: str,
    heldout: Mapping[str, str],
    text: str,
    comparisons: Sequence[Stage] = (),
) -> dict[str, Step]:
    """All steps by name, in order, those of the comparisons last.

    `model`: hashes of the original. `train`, `heldout`: hashes of the texts. `text`: of the recipe.
    `comparisons`: stages that begin from the original, beside the recipe's.
    """
    measured = {"heldout": heldout}
    spoken = {"prompts": recipe.prompts, "answer_tokens": recipe.answer_tokens}
    learned = {"train": train, "seed": recipe.seed}
    first = step_after(None, "original", {"model": model, "results": RESULTS})
    steps = [
        step_after(None, "recipe", {"text": text}),
        step_after(None, "texts", {"train": train, **measured}),
        first,
        step_after(first, "original/measure", {**measured, **spoken}),
    ]
    trained = [stage.recover for stage in (*recipe.stages, *comparisons) if stage.recover]
    followed = sorted({key for settings in trained for key in reference_keys(settings)})
    if followed:
        inputs = {"references": followed, "domains": [s.name for s in recipe.data.sources]}
        steps.append(step_after(first, REFERENCES, {**inputs, **measured}))
    last = first
    for stage in recipe.stages:
        new = _stage_steps(stage, last, learned, measured)
        steps += new
        last = next(step for step in reversed(new) if step.kind in ("carve", "recover"))
    steps.append(step_after(last, "result/samples", spoken))
    for stage in comparisons:
        steps += _stage_steps(stage, first, learned, measured)
    return {step.name: step for step in steps}


def _stage_steps(
    stage: Stage, last: Step, learned: Mapping[str, Any], measured: Mapping[str, Any]
) -> list[Step]:
    """The steps of one stage after the step that made its model."""
    steps = []
    if stage.cut is not None:
        cut, decisive = (_cut_inputs(stage.cut, every_key=each) for each in (True, False))
        last = step_after(
            last, f"{stage.name}/carve", {"cut": cut, **learned}, {"cut": decisive, **learned}
        )
        # Where nothing is recovered this is the last word on the stage, and its speed counts.
        cut_measured = {**measured, "speed": stage.recover is None}
        steps += [last, step_after(last, f"{stage.name}/measure-cut", cut_measured)]
    if stage.recover is not None:
        if stage.recover.mixtures:
            learned = {**learned, **measured}
        settings, decisive = (stage.recover.decisive(every_key=each) for each in (True, False))
        last = step_after(
            last, f"{stage.name}/recover", {"recover": settings, **learned},
            {"recover": decisive, **learned},
        )  # fmt: skip
        steps += [last, step_after(last, f"{stage.name}/measure", measured)]
    return steps


def _cut_inputs(spec: CutSpec, *, every_key: bool) -> dict[str, Any]:
    """What a cut depends on, as JSON; `every_key`: with the keys that hold their default."""
    if spec.cut is not None:
        return {"cut": Cut.load(spec.cut).to_json()}
    found = spec.model_dump(mode="json", exclude={"cut", "vocab"}, exclude_defaults=not every_key)
    return found if spec.vocab is None else {**found, "vocab": spec.vocab.identity}


def control_settings(recipe: Recipe) -> RecoverySettings | None:
    """The settings of the last recovery, with the tokens of all; None where nothing recovers."""
    settings = [stage.recover for stage in recipe.stages if stage.recover is not None]
    if not settings:
        return None
    tokens = sum(each.tokens for each in settings)
    return settings[-1].model_copy(update={"tokens": tokens})


def teacher_names(stages: Sequence[Stage]) -> dict[str, str]:
    """The stage whose model each stage learns from, where that is not the original."""
    return {
        stage.name: before.name
        for before, stage in pairwise(stages)
        if stage.recover and stage.recover.distill and stage.recover.distill.teacher == "previous"
    }


def reference_keys(settings: RecoverySettings) -> dict[str, str]:
    """Which losses of the original the mixtures of a recovery follow, and of what they are.

    None where the settings give references themselves.
    """
    return {
        f"{kind}, {settings.mixture_tokens:,} tokens in rows of {settings.row_length:,}": kind
        for kind, mixing in settings.mixtures.items()
        if mixing.references is None
    }


def find_changes(steps: Mapping[str, Step], entries: Mapping[str, Entry], out: Path) -> Changes:
    """Compare what was done in `out` with what the recipe asks for now."""
    stale: list[Entry] = []
    trainings: list[str] = []
    reasons: list[str] = []
    for name, entry in entries.items():
        step = steps.get(name)
        if name in UNCHAINED or (step is not None and step.key == entry.key):
            continue
        stale.append(entry)
        if step is None:
            reasons.append(f"{entry.stage} is no longer there")
        else:
            reasons += _in_words(entry.inputs, step.inputs, entry.stage)
    for path in sorted((out / STAGES).glob(f"*/{TRAINING_FILE}")):
        stage = path.parent.name
        step = steps.get(f"{stage}/recover")
        begun = read_json_object(path)
        if step is None:
            trainings.append(stage)
            reasons.append(f"{stage} is no longer there")
        elif step.key != begun["key"]:
            trainings.append(stage)
            reasons += _in_words(begun["inputs"], step.inputs, stage)
    return Changes(tuple(stale), tuple(trainings), tuple(dict.fromkeys(reasons)))


def _in_words(old: Mapping[str, Any], new: Mapping[str, Any], stage: str) -> list[str]:
    """As the keys of a recipe: `depth.cut.layers: 3 -> 2`, `data.train: changed`."""
    words = []
    for text in differences(old, new):
        key = text.partition(".")[0].partition(":")[0]
        place = {"cut": f"{stage}.", "recover": f"{stage}.", "train": "data.", "heldout": "data."}
        words.append(place.get(key, "") + text)
    return words
