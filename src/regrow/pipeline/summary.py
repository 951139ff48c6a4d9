"""Turn the ledger of a run into the records of the report."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from regrow.common.errors import UserError
from regrow.common.run_directory import LEDGER_FILE, MODEL_LINK
from regrow.cuts.cut import AxisCut, Cut
from regrow.evaluation.speed import Speed
from regrow.pipeline.ledger import Entry, read_entries
from regrow.pipeline.ledger_checks import reading
from regrow.pipeline.outcomes import bits_per_nat, recovery_outcome
from regrow.pipeline.stage_steps import StageSteps
from regrow.pipeline.steps import AT_ONCE, CONTROL, SPEED, STAGES
from regrow.pipeline.task_summary import evaluation_rows, kept
from regrow.report.records import (
    HeldoutCurve,
    KeptAxis,
    Loading,
    Machine,
    MixtureRow,
    ModelRow,
    Outcome,
    RunSummary,
    Sample,
    Score,
    Seconds,
    StageRow,
    Text,
    Unit,
)
from regrow.training.distill_settings import DistillSettings
from regrow.training.lora_settings import LoraSettings
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    from regrow.evaluation.heldout import Predicts

Entries = Mapping[str, Entry]


def summarise(directory: Path) -> RunSummary:
    """The records of the run in `directory`, up to its last finished step.

    Raises UserError if there is no run, or its ledger is damaged.
    """
    path = directory / LEDGER_FILE
    entries = read_entries(path)
    original = entries.get("original")
    if original is None:
        raise UserError(f"{directory}: no run was begun here ({LEDGER_FILE} has no entry)")
    with reading(path):
        return _summary(directory, entries, original)


def _summary(directory: Path, entries: Entries, original: Entry) -> RunSummary:
    last = max(entries.values(), key=lambda entry: entry.started)
    stages = list(
        dict.fromkeys(
            name.partition("/")[0] for name in entries if name.endswith(("/carve", "/recover"))
        )
    )
    stages = [name for name in stages if name not in (CONTROL, AT_ONCE)]
    by_stage = [StageSteps(entries, name) for name in stages]
    of_original = StageSteps(entries, "original")
    speeds = entries[SPEED].outputs["speeds"] if SPEED in entries else {}
    rows = [_model_row(of_original, "original", original, _conversion(original))]
    outcomes = {
        name: _in_order(recovery_outcome(entries, name, previous), entries)
        for name, previous in zip(stages, ["original", *stages], strict=False)
    }
    rows += map(_stage_model, by_stage)
    rows += _comparisons(entries)
    rows = [row.model_copy(update={"speed": _speed(speeds.get(row.name))}) for row in rows]
    made_by = {"original": original, **{steps.stage: _made_by(steps) for steps in by_stage}}
    return RunSummary(
        name=directory.name,
        loading=_loading(directory, by_stage),
        command=last.environment["command"],
        started=datetime.datetime.fromisoformat(original.started),
        seconds=sum(map(_seconds, entries.values())),
        recipe_text=entries["recipe"].outputs["text"] if "recipe" in entries else "",
        versions=_versions(entries),
        machine=Machine(**last.environment["machine"]),
        hashes={name: entry.outputs["fingerprint"] for name, entry in made_by.items()},
        texts=tuple(
            Text(**text)
            for text in (entries["texts"].outputs["texts"] if "texts" in entries else ())
        ),
        models=tuple(rows),
        stages=tuple(_stage_row(steps, outcomes[steps.stage]) for steps in by_stage),
        predicts=_predicted_tokens(entries),
        samples=_samples(entries),
        evaluation=evaluation_rows(entries, stages),
        quality_kept=kept(entries, stages),
    )


def _in_order(outcome: Outcome | None, entries: Entries) -> Outcome | None:
    """The outcome with its texts in the order of the recipe; the ledger sorts them by name."""
    if outcome is None or "texts" not in entries:
        return outcome
    declared = [text["name"] for text in entries["texts"].outputs["texts"]]
    names = dict.fromkeys(name for name in (*declared, *outcome.texts) if name in outcome.texts)
    return outcome.model_copy(update={"texts": {name: outcome.texts[name] for name in names}})


def _speed(found: Any) -> Speed | None:
    return None if found is None else TypeAdapter(Speed).validate_python(found)


def _made_by(steps: StageSteps[Entry]) -> Entry:
    """The step that made the last model of a stage so far; it has one."""
    made = steps.recover or steps.carve
    assert made is not None
    return made


def _loading(directory: Path, stages: Sequence[StageSteps[Entry]]) -> Loading | None:
    """The model of the run: that of the last stage, or of the last that is done so far."""
    done = [steps for steps in stages if _path(steps)]
    if not done:
        return None
    made, link = _made_by(done[-1]), directory / MODEL_LINK
    return Loading(
        path=str(link if link.is_dir() else directory / _path(done[-1])),
        # Ledgers from before these were added do not have the keys.
        is_encoder_decoder=made.outputs.get("is_encoder_decoder", False),
        own_code=made.outputs.get("own_code", False),
    )


def _comparisons(entries: Entries) -> Iterator[ModelRow]:
    for name, words in (
        (CONTROL, "the original, trained on {tokens:,} tokens too"),
        (AT_ONCE, "all cuts made in one, then {tokens:,} tokens"),
    ):
        steps = StageSteps(entries, name)
        made = steps.recover
        if made is not None:
            note = words.format(tokens=made.outputs["tokens"])
            if made.outputs.get("kept") == "before":
                note += "; they did not help, so it has the weights from before"
            yield _model_row(steps, "comparison", made, note)


def _predicted_tokens(entries: Entries) -> "tuple[Predicts, ...]":
    """What the losses of the held-out texts are over, each once."""
    measured = StageSteps(entries, "original").measure
    losses = measured.heldout_losses.values() if measured else ()
    return tuple(sorted({loss["predicts"] for loss in losses}))


def _conversion(original: Entry) -> str:
    """How the original was converted, such as `dequantised Q4_1`; empty if it was not."""
    source = original.outputs["source"]
    if source is None:
        return ""
    kinds = [kind for kind in source["tensor_types"] if kind not in ("F32", "F16", "BF16")]
    return f"dequantised {' + '.join(kinds)}" if kinds else ""


def _seconds(entry: Entry) -> float:
    """The seconds of a step, summed over all calls that worked on it."""
    recovered: float = entry.outputs.get("seconds", {}).get("recover", 0.0)
    return max(entry.seconds, recovered, 0.0)


def _seconds_by_phase(entry: Entry | None) -> dict[str, float]:
    """The seconds of the phases of a step, by name.

    A negative number is 0: an earlier version measured by the clock of the day, which can be set
    back.
    """
    phases = entry.outputs["seconds"] if entry is not None else {}
    return {name: max(seconds, 0.0) for name, seconds in phases.items()}


def _versions(entries: Entries) -> dict[str, str]:
    """The versions of each package, several if it changed during the run."""
    found: dict[str, list[str]] = {}
    for entry in entries.values():
        for package, version in entry.environment["versions"].items():
            found.setdefault(package, []).append(version)
    return {package: ", ".join(dict.fromkeys(seen)) for package, seen in found.items()}


def _stage_model(steps: StageSteps[Entry]) -> ModelRow:
    made = _made_by(steps)
    note = "the weights before the recovery, which did not help"
    return _model_row(steps, "stage", made, note if made.outputs.get("kept") == "before" else "")


def _model_row(steps: StageSteps[Entry], role: Any, made: Entry, note: str) -> ModelRow:
    """`made`: the step that made the model, or found it in the case of the original."""
    facts = made.outputs
    return ModelRow(
        name=steps.stage,
        role=role,
        note=note,
        path=_path(steps),
        parameters=facts["parameters"],
        parameters_by_part=facts["parts"],
        vocabulary=facts["vocabulary"],
        bytes_on_disk=facts["bytes"],
        after_cut=_scores(steps.measure_cut),
        after_recovery=_scores(steps.measure),
    )


def _path(steps: StageSteps[Entry]) -> str:
    """The directory of the model that a stage leaves, inside that of the run; empty before that."""
    is_made = steps.recover is not None or _is_done_by_cut(steps)
    return f"{STAGES}/{steps.stage}/model" if is_made else ""


def _scores(entry: Entry | None) -> dict[str, Score]:
    if entry is None:
        return {}
    return {
        # Ledgers from before unknown tokens were counted do not have the keys.
        text: Score(
            loss=found["loss_per_token"],
            bits_per_byte=found["bits_per_byte"],
            unknown=found.get("unknown", 0.0),
            lost=found.get("lost", 0.0),
        )
        for text, found in entry.heldout_losses.items()
    }


def _stage_row(steps: StageSteps[Entry], outcome: Outcome | None) -> StageRow:
    carve, recover = steps.carve, steps.recover
    measured = [_seconds(entry) for entry in (steps.measure_cut, steps.measure) if entry]
    recover_seconds, cut_seconds = _seconds_by_phase(recover), _seconds_by_phase(carve)
    if recover is not None:
        measured.append(recover_seconds.get("measure", 0.0))
    cut = Cut.from_json(carve.outputs["cut"], f"{LEDGER_FILE}: {carve.step}") if carve else None
    return StageRow(
        name=steps.stage,
        done=steps.measure is not None or _is_done_by_cut(steps),
        cut=f"{carve.outputs['words']}{_chosen_by(carve)}" if carve else "",
        # Ledgers from before refits were added do not have the key.
        refitted=tuple(
            (each["before"], each["after"])
            for each in (carve.outputs.get("refitted", ()) if carve else ())
            if not each.get("reads", False)  # an earlier version refitted only what writes
        ),
        layers_trained=sum(
            each.get("trained", False)
            for each in (carve.outputs.get("refitted", ()) if carve else ())
        ),
        recovery=_recovery(recover),
        outcome=outcome,
        kept=tuple(
            _kept(name, cut.axes[name])
            for name in _in_order_of_kind(cut)
            if not cut.axes[name].rotated  # directions are no channels of the model before
        )
        if cut
        else (),
        curve=tuple((t, loss) for t, loss in recover.outputs["curve"]) if recover else (),
        heldout=heldout_curve(recover, steps.measure, outcome),
        mixtures=tuple(_mixtures(recover)),
        seconds=Seconds(
            score=cut_seconds.get("score"),
            refit=cut_seconds.get("refit"),
            carve=cut_seconds.get("carve"),
            recover=recover_seconds.get("recover"),
            measure=sum(measured) if measured else None,
        ),
        warnings=tuple(carve.outputs["notes"]) if carve else (),
    )


def _is_done_by_cut(steps: StageSteps[Entry]) -> bool:
    """Whether a stage is done after its cut was measured, which means that it trains nothing."""
    return steps.measure_cut is not None and steps.measure_cut.inputs["speed"]


def heldout_curve(
    recover: Entry | None, measure: Entry | None, outcome: Outcome | None
) -> HeldoutCurve | None:
    """The held-out losses from the beginning to the end of a recovery; None if it is not done.

    `outcome`: the losses before and after. Those in between are of the text of that time. If it has
    changed since, they are left out, since they cannot be compared.
    """
    if recover is None or outcome is None:
        return None
    now = (measure or recover).heldout_hashes
    total = recover.outputs["tokens"]
    between: dict[str, list[tuple[int, float]]] = {}
    for tokens, losses in recover.outputs["heldout_curve"]:
        for text, loss in losses.items():
            factor = _factor(recover, text, outcome.unit)
            unchanged = now.get(text) == recover.heldout_hashes[text]
            if unchanged and factor is not None and tokens < total:
                between.setdefault(text, []).append((tokens, loss * factor))
    texts = {
        text: ((0, before), *between.get(text, ()), (total, after))
        for text, (before, after) in outcome.texts.items()
    }
    return HeldoutCurve(unit=outcome.unit, texts=texts)


def _factor(recover: Entry, text: str, unit: Unit) -> float | None:
    """What turns nats per token of a text into this unit; None if that is not known."""
    if unit == "nats per token":
        return 1.0
    return bits_per_nat(recover.heldout_losses[text])


def _mixtures(recover: Entry | None) -> Iterator[MixtureRow]:
    # Ledgers from before mixtures were added do not have the key.
    found = recover.outputs.get("mixtures", {}) if recover else {}
    for kind, mixture in found.items():
        history = mixture["history"]
        yield MixtureRow(
            of=kind,
            shares=((0, mixture["start"]), *((c["tokens"], c["shares"]) for c in history)),
            losses=tuple((c["tokens"], c["losses"]) for c in history),
            references=mixture["references"],
        )


def _chosen_by(carve: Entry) -> str:
    """The score of a cut, such as `, by activation`; empty if the recipe names none."""
    by = carve.inputs["cut"].get("by")
    return f", by {by}" if by else ""


_OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon and AdamW"}


def _recovery(recover: Entry | None) -> str:
    """A recovery in one line; empty without one."""
    if recover is None:
        return ""
    settings = recover.inputs["recover"]
    step_tokens = RecoverySettings.model_construct(**settings).step_tokens
    return (
        f"{recover.outputs['tokens']:,} tokens in steps of {step_tokens:,}, "
        f"{_OPTIMIZERS[settings['optimizer']]}, learning rate {settings['learning_rate']:g} "
        f"with {settings['schedule']}{_embeddings(settings)}{_adapters(settings)}"
        f"{_distillation(settings)}"
    )


def _embeddings(settings: Mapping[str, Any]) -> str:
    rate = settings.get("embedding_rate", 1)
    if rate == 1:
        return ""
    return f", embeddings at {rate:g} of it" if rate else ", embeddings as they were"


def _adapters(settings: Mapping[str, Any]) -> str:
    lora = settings.get("lora")
    return f", {LoraSettings.model_validate(lora).words()}" if lora else ""


def _distillation(settings: Mapping[str, Any]) -> str:
    distill = settings.get("distill")
    return f", {DistillSettings.model_validate(distill).words()}" if distill else ""


_KINDS = ("layer", "hidden", "ffn", "expert", "head", "kv_head", "vocab")


def _in_order_of_kind(cut: Cut) -> list[str]:
    """The axes of a cut, layers first; the ledger sorts them by name."""

    def place(axis: str) -> int:
        kind = axis.rpartition(".")[2]
        return _KINDS.index(kind) if kind in _KINDS else len(_KINDS)

    return sorted(cut.axes, key=place)


def _kept(name: str, axis: AxisCut) -> KeptAxis:
    if axis.along is None:
        return KeptAxis(axis=name, before=axis.size, kept=tuple(sorted(axis.keep.tolist())))
    return KeptAxis(
        axis=name,
        before=axis.size,
        kept_by_layer=tuple(tuple(sorted(row)) for row in axis.keep.tolist()),
    )


def _samples(entries: Entries) -> tuple[Sample, ...]:
    found: dict[str, dict[str, str]] = {}
    for entry in entries.values():
        if entry.kind == "answers":
            for prompt, answer in zip(
                entry.inputs["prompts"], entry.outputs["answers"], strict=True
            ):
                found.setdefault(prompt, {})[entry.stage] = answer
    return tuple(Sample(prompt=prompt, answers=answers) for prompt, answers in found.items())
