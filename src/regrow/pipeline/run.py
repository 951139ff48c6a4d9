"""Run the stages of a recipe in order: score, cut, carve, measure, recover, measure.

A step is recorded in the ledger when its output is complete. So a run that was killed anywhere
continues with the step that was not done. `regrow.pipeline.run_plan` plans the steps.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.files import link_atomically, remove, write_atomically
from regrow.common.progress import QUIET, Progress
from regrow.common.publishing import make_directory, remove_all_strays
from regrow.common.run_directory import MODEL_LINK
from regrow.corpus.turns import TextsInTurns
from regrow.cuts.cut import Cut
from regrow.pipeline.cards import write_scores
from regrow.pipeline.finished import (
    Result,
    input_stamps,
    note_finished,
    result_in,
)
from regrow.pipeline.ledger import Entry, Ledger, Step
from regrow.pipeline.measuring import Measuring
from regrow.pipeline.outcomes import (
    bits_per_nat,
    heldout_words,
    measured_before,
    outcome,
)
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.run_checks import OUTPUTS, check_run
from regrow.pipeline.run_inputs import record_inputs
from regrow.pipeline.run_plan import RunOptions, RunPlan, plan_run
from regrow.pipeline.step_recorder import StepRecorder, TrainingProgress
from regrow.pipeline.step_work import step_work
from regrow.pipeline.steps import (
    REFERENCES,
    STAGES,
    TRAINING_FILE,
    reference_keys,
)
from regrow.pipeline.task_steps import EVALUATE
from regrow.pipeline.time_left import Clock
from regrow.pipeline.training_time import rates_of_run
from regrow.report.outcomes import worse_lines
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint, repeat_cut
from regrow.training.recovery import RecoveryData, keep_untrained, recover
from regrow.training.settings import TRAINED


def run(recipe: Recipe, out: Path, options: RunOptions, progress: Progress = QUIET) -> Result:
    """Run all stages of a recipe in the directory `out`; steps that are done are not repeated.

    With several processes, the first calls this inside `Processes.lead`, and the others train with
    it.

    Raises UserError if the run is not possible, before any work if that can be known then.
    """
    import torch

    from regrow.training.distributed.processes import join_processes

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
        join_processes().call(partial(torch.set_num_threads, recipe.threads))
    with Ledger(out) as ledger:
        remove_all_strays(out)
        inputs = input_stamps(recipe)
        plan = plan_run(recipe, out, options, progress)
        check_run(plan, ledger, options.redo, progress)
        steps = _Run(plan, ledger, progress)
        steps.say_where_it_goes_on()
        steps.do_steps()
        result = steps.finish()
        note_finished(recipe, out, options, inputs, plan.original.path)
        return result


@dataclass(frozen=True)
class _Start:
    """What a recovery starts from.

    Attributes:
        model: The model that is trained.
        uncut: The model that it was cut from; the same if the stage has no cut.
        measured: The entry with the losses of `model`.
    """

    model: ModelDirectory
    uncut: ModelDirectory
    measured: Entry


class _Run:
    """The steps of one run."""

    def __init__(self, plan: RunPlan, ledger: Ledger, progress: Progress) -> None:
        self.plan = plan
        self.recipe = plan.recipe
        self.out = plan.out
        self.original = plan.original
        self.steps = plan.steps
        self.ledger = ledger
        self.progress = progress
        self.clock = Clock(step_work(plan), guesses=rates_of_run(plan, ledger, progress))
        self.recorder = StepRecorder(ledger, self.clock, progress, plan.recipe.seed)
        self.measuring = Measuring(plan, self.recorder)

    @property
    def train_documents(self) -> TextsInTurns:
        """Opens the training text, for scores and refits."""
        return self.plan.corpus.in_turns(self.original.tokenizer)

    def counted_documents(self) -> Iterator[str]:
        """The documents whose tokens decide a vocabulary."""
        return self.plan.corpus.counted_documents(self.original.tokenizer)

    def say_where_it_goes_on(self) -> None:
        """Say which step comes next in a run that was begun before; that none does, if so."""
        wanted = [step for step in self.steps.values() if self.plan.is_wanted(step)]
        to_do = [step for step in wanted if self.ledger.done(step) is None]
        done = len(wanted) - len(to_do)
        if not done:
            return
        if not to_do:
            where = result_in(self.out)
            self.progress.say(f"finished already: {where.model}, {where.report}")
            return
        next_step = to_do[0]
        begun = (self.out / STAGES / next_step.stage / TRAINING_FILE).exists()
        how = " from its last checkpoint" if begun and next_step.kind == "recover" else ""
        self.progress.say(
            f"going on: {done} of {len(wanted)} steps are done, next is {next_step.name}{how}"
        )

    def do_steps(self) -> None:
        """Do all steps that are not done yet."""
        self._remove_old_results()
        record_inputs(self.plan, self.recorder)
        last, previous = self.original, "original"
        models = {"original": self.original}
        self.measuring.measure(self.steps["original/measure"], self.original)
        self.measuring.answer_prompts(self.steps["original/answers"], self.original)
        self.measuring.evaluate_tasks("original", self.original)
        self.measuring.measure_references()
        for stage in self.recipe.stages:
            last = self._do_stage(stage, last, previous)
            previous = stage.name
            models[stage.name] = last
            self.measuring.answer_prompts(self.steps[f"{stage.name}/answers"], last)
            self.measuring.evaluate_tasks(
                stage.name, last, self._card(f"{stage.name}/{EVALUATE}", stage, last)
            )
        for comparison in self.plan.comparisons():
            self._do_stage(comparison.spec, self.original, "original")
        self.measuring.measure_speeds(models)

    def _remove_old_results(self) -> None:
        """Remove stages that neither recipe nor ledger knows, and results of unknown recoveries.

        If `redo` is killed, results stay whose steps it has taken out of the ledger.
        """
        known = {entry.stage for entry in self.ledger.entries.values()}
        # Also a comparison that is not asked for now, whose training may be half done.
        known |= {step.stage for step in self.steps.values()}
        for directory in (self.out / STAGES).glob("*"):
            if directory.name not in known:
                remove(directory)
            elif (
                f"{directory.name}/recover" not in self.ledger.entries
                and not (directory / TRAINING_FILE).exists()
            ):
                remove(*(directory / name for name in OUTPUTS["recover"] if name != "model"))

    def _do_stage(self, stage: Stage, source: ModelDirectory, previous: str) -> ModelDirectory:
        """Cut and recover the model `source`; the model of the stage, in its directory `model`.

        `previous`: the stage that made `source`, or `original`.
        """
        directory = self.out / STAGES / stage.name
        make_directory(directory)
        uncut, recover_step = source, self.steps.get(f"{stage.name}/recover")
        carved = ModelDirectory(directory / ("carved" if recover_step else "model"))
        if stage.cut is not None:
            measured = self.steps[f"{stage.name}/measure-cut"]
            recovered = recover_step is not None and self.ledger.done(recover_step) is not None
            if not recovered or self.ledger.done(measured) is None:
                self._carve(self.steps[f"{stage.name}/carve"], stage.cut, source, carved)
            self.clock.finish(f"{stage.name}/carve")
            publish = (
                (lambda found: None) if recover_step else self._card(measured.name, stage, carved)
            )
            self.measuring.measure(measured, carved, publish=publish)
            source = carved
        if recover_step is None:
            write_scores(carved, self._outputs(), stage.name)
            return carved
        before = measured_before(self.ledger.entries, stage.name, previous)
        assert before is not None
        model = self._recover(recover_step, _Start(source, uncut, before))
        remove(carved.path)
        entry = self.ledger.entries[recover_step.name]
        known = entry.outputs["trained"] if entry.outputs["kept"] == "trained" else before.outputs
        # Held-out texts may have changed since the recovery.
        unchanged = entry.heldout_hashes == self.plan.heldout_hashes
        step = self.steps[f"{stage.name}/measure"]
        self.measuring.measure(
            step, model, known if unchanged else {}, self._card(step.name, stage, model)
        )
        write_scores(model, self._outputs(), stage.name)
        return model

    def _outputs(self) -> dict[str, Mapping[str, Any]]:
        return {name: entry.outputs for name, entry in self.ledger.entries.items()}

    def _card(
        self, step: str, stage: Stage, model: ModelDirectory
    ) -> Callable[[Mapping[str, Any]], None]:
        """Writes what a step measured into the card of the model of its stage."""

        def write(found: Mapping[str, Any]) -> None:
            write_scores(model, {**self._outputs(), step: found}, stage.name, again=True)

        return write

    def _carve(
        self, step: Step, spec: CutSpec, source: ModelDirectory, carved: ModelDirectory
    ) -> None:
        """Cut `source` and write `carved`; if the step is done, make sure that `carved` exists."""
        entry = self.ledger.done(step)
        if entry is None:
            remove(carved.path)
            cut = partial(self._cut, step, spec, source, carved)
            self.recorder.once(step, "scoring and cutting", cut)
            return
        if not carved.path.exists():
            # A recovery deletes the carved model when it is done. Here the recovery is done again.
            self.recorder.report(step.stage, "cutting again")
            where = f"{self.ledger.path}: {entry.step}: cut"
            chosen = Cut.from_json(entry.outputs["cut"], where)
            repeat_cut(
                source, carved.path, chosen, spec, self.train_documents, self.recipe.seed,
                counted=self.counted_documents,
            )  # fmt: skip
            is_computed = entry.outputs["refitted"] or chosen.is_rotated
            if is_computed and not self._is_as_left(step, carved):
                # Another machine rounds a rotation and a refit differently. A recovery that is done
                # keeps the cut that it began with. Otherwise the cut is made, recorded and measured
                # anew.
                recover_step = self.steps.get(f"{step.stage}/recover")
                if recover_step is None or self.ledger.done(recover_step) is None:
                    self.ledger.forget([step.name, f"{step.stage}/measure-cut"])
                    self._carve(step, spec, source, carved)
                return
        self._check_output(step, carved)

    def _cut(
        self, step: Step, spec: CutSpec, source: ModelDirectory, carved: ModelDirectory
    ) -> Mapping[str, Any]:
        """Score, cut and carve; the outputs of the step."""
        began = time.monotonic()
        result = prune_checkpoint(
            source, carved.path, spec, documents=self.train_documents,
            counted=self.counted_documents, seed=self.recipe.seed,
            progress=Progress(say=lambda text: self.recorder.report(step.stage, text)),
        )  # fmt: skip
        self.progress.say(f"{step.stage}: {result.cut.words()}, {result.parameters:,} parameters")
        seconds = time.monotonic() - began
        return {
            **carved.facts(),
            "words": result.cut.words(),
            "cut": result.cut.to_json(),
            "notes": list(result.notes),
            "refitted": [each.to_json() for each in result.refitted],
            "seconds": {
                "score": max(seconds - result.refit_seconds - result.seconds, 0.0),
                "refit": result.refit_seconds,
                "carve": result.seconds,
            },
        }

    def _recover(self, step: Step, start: _Start) -> ModelDirectory:
        """Train the model of `start`; the trained model, or the one from before if it is better."""
        directory = self.out / STAGES / step.stage
        model, training_file = ModelDirectory(directory / "model"), directory / TRAINING_FILE
        if self.ledger.done(step) is None:
            # Written before the first checkpoint, so that each checkpoint has a known key.
            text = json.dumps({"key": step.key, "inputs": step.inputs})
            write_atomically(training_file, text.encode())
            remove(model.path, directory / TRAINED)
        entry = self.recorder.once(step, "recovering", partial(self._train, step, start))
        if entry is not None:
            tokens, seconds = entry.outputs["tokens"], entry.outputs["seconds"]["recover"]
            rate = tokens / seconds if seconds else 0.0
            self.progress.say(
                f"{step.stage}: {tokens:,} tokens in {seconds:.0f} s, {rate:,.0f} a second"
            )
            before = _of(start.measured.heldout_losses, self.recipe.heldout_of(step.stage))
            found = outcome(before, entry.heldout_losses, entry.outputs["kept"])
            for line in worse_lines(found, str(directory / TRAINED)):
                self.progress.say(f"{step.stage}: {line}")
        self._check_output(step, model)
        remove(directory / "training", training_file)
        return model

    def _train(self, step: Step, start: _Start) -> Mapping[str, Any]:
        """Train in all processes, and keep the better weights; the outputs of the step."""
        from regrow.training.distributed.processes import join_processes

        stage = self.plan.stages[step.stage]
        settings = stage.recovery
        references = {
            kind: self.ledger.entries[REFERENCES].outputs["losses"][key]
            for key, kind in reference_keys(settings).items()
        }
        teachers = {"original": self.original, "previous": start.uncut}
        directory = self.out / STAGES / step.stage
        judged = self.recipe.heldout_of(step.stage)
        recovery = partial(
            recover, start.model, directory, settings,
            RecoveryData(stage.corpus, judged, self.plan.heldout_hashes, references),
            seed=stage.seed,
            teacher=None if settings.distill is None else teachers[settings.distill.teacher],
        )  # fmt: skip
        join_processes().call(recovery)
        first = next(iter(judged))
        factor = bits_per_nat(start.measured.heldout_losses[first])
        training_progress = TrainingProgress(
            self.recorder, stage.name, stage.flops_per_token, partial(heldout_words, factor=factor)
        )
        result = recovery(on_step=training_progress)
        began = time.monotonic()
        trained = self.measuring.losses_of(step.stage, ModelDirectory(directory / "model"))
        measuring = time.monotonic() - began
        before = _of(start.measured.heldout_losses, judged)
        is_worse = outcome(before, trained["heldout"], "trained").mean_is_worse
        if is_worse:
            keep_untrained(start.model, directory)
        return {
            **ModelDirectory(directory / "model").facts(),
            "trained": trained,
            "kept": "before" if is_worse else "trained",
            "curve": result.curve,
            "heldout_curve": [(at, {first: loss}) for at, loss in result.heldout_curve],
            "heldout": self.plan.heldout_hashes,
            # Measured, but not to get better on: texts if it learns conversations, and the reverse.
            "others": [name for name in self.plan.heldout_hashes if name not in judged],
            "tokens": result.tokens,
            "predicted": result.predicted,
            "skipped": result.skipped,
            "mixtures": result.mixtures,
            "seconds": {"recover": result.seconds, "measure": measuring},
        }

    def finish(self) -> Result:
        """Link the final model and write the report; where both are."""
        from regrow.pipeline.summary import summarise
        from regrow.report.page import write_page

        link_atomically(self.out / MODEL_LINK, Path(STAGES, self.recipe.stages[-1].name, "model"))
        result = result_in(self.out)
        write_page(summarise(self.out), result.report)
        return result

    def _check_output(self, step: Step, model: ModelDirectory) -> None:
        """Raise UserError if the model of a step that is done is missing or has changed."""
        if not model.path.is_dir():
            raise UserError(
                f"{model.path}: gone, though the ledger says that {step.name} is done; "
                f"restore it, or remove {self.out} and start again"
            )
        if not self._is_as_left(step, model):
            raise UserError(
                f"{model.path}: not as {step.name} left it; restore it, or remove {self.out} and "
                "start again"
            )

    def _is_as_left(self, step: Step, model: ModelDirectory) -> bool:
        """Whether the model of a step that is done is as the step left it."""
        outputs = self.ledger.entries[step.name].outputs
        model = ModelDirectory(model.path)  # since a model remembers its hashes
        found = (model.checkpoint.fingerprint, model.files_sha256)
        return found == (outputs["fingerprint"], outputs["files"])


def _of(losses: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """The losses on these texts."""
    return {name: losses[name] for name in texts if name in losses}
