"""Run the stages of a recipe in order: score, cut, carve, measure, recover, measure.

A step is recorded in the ledger when its output is complete. So a run that was killed anywhere
continues with the step that was not done. `regrow.pipeline.plan` plans the steps.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from regrow.checkpoint.companions import SOURCE_FILE
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.files import link_atomically, read_json_object, remove, write_atomically
from regrow.common.progress import QUIET, Progress
from regrow.common.publishing import make_directory, remove_all_strays
from regrow.common.run_directory import MODEL_LINK
from regrow.corpus.sources import Corpus, Source
from regrow.evaluation import speed
from regrow.evaluation.registry import (
    EVALUATIONS,
    EvaluationData,
    Models,
    evaluate,
    names_for,
)
from regrow.evaluation.speed import Speed, measure_speeds
from regrow.pipeline.cards import write_scores
from regrow.pipeline.finished import (
    Result,
    input_stamps,
    note_finished,
    result_in,
)
from regrow.pipeline.ledger import HELDOUT_FILE, Entry, Ledger, Step
from regrow.pipeline.outcomes import (
    bits_per_nat,
    heldout_words,
    losses_words,
    measured_before,
    outcome,
)
from regrow.pipeline.plan import RunOptions, RunPlan, make_plan
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.run_checks import OUTPUTS, check_run
from regrow.pipeline.step_recorder import StepRecorder, TrainingProgress
from regrow.pipeline.steps import (
    REFERENCES,
    SPEED,
    STAGES,
    TRAINING_FILE,
    WRITE,
    WRITTEN_FILE,
    reference_keys,
)
from regrow.pipeline.task_steps import EVALUATE, evaluate_model
from regrow.pipeline.time_left import Clock
from regrow.pipeline.training_time import rates_of_run
from regrow.report.lost_text import lost_words
from regrow.report.outcomes import worse_lines
from regrow.report.records import Score
from regrow.surgery.cut import Cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint, repeat_cut
from regrow.training.mixtures import measure_references
from regrow.training.recovery import RecoveryData, keep_untrained, recover
from regrow.training.settings import TRAINED

_WRITING_SECONDS = 1.0
"""Time between two reports of how far a text is written."""


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
        plan = make_plan(recipe, out, options, progress)
        check_run(plan, ledger, options.redo, progress)
        if plan.put_aside is not None:
            plan.put_aside.write(out / HELDOUT_FILE)
            progress.say(f"held out, since no held-out text is named: {plan.put_aside.words()}")
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
        self.clock = Clock(plan.step_work(), guesses=rates_of_run(plan, ledger, progress))
        self.recorder = StepRecorder(ledger, self.clock, progress, plan.recipe.seed)
        self.evaluation_data = EvaluationData(
            texts=plan.recipe.data.heldout,
            prompts=tuple(plan.recipe.prompts),
            answer_tokens=plan.recipe.answer_tokens,
            special_tokens=plan.recipe.data.special_tokens,
        )

    def train_documents(self) -> Iterator[str]:
        """The documents of the training text, for scores and token counts."""
        return self.plan.corpus.documents(self.original.tokenizer)

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
        self._record_inputs()
        last, previous = self.original, "original"
        models = {"original": self.original}
        self._measure(self.steps["original/measure"], self.original, ("all", "of stages"))
        self._answer_prompts(self.steps["original/answers"], self.original)
        self._evaluate_tasks("original", self.original)
        self._measure_references()
        for stage in self.recipe.stages:
            last, previous = self._do_stage(stage, last, previous), stage.name
            models[stage.name] = last
            self._answer_prompts(self.steps[f"{stage.name}/answers"], last)
            self._evaluate_tasks(stage.name, last)
        for stage in self.plan.comparisons:
            self._do_stage(stage, self.original, "original")
        self._measure_speeds(models)

    def _remove_old_results(self) -> None:
        """Remove stages that neither recipe nor ledger knows, and results of unknown recoveries.

        If `redo` is killed, results stay whose steps it has taken out of the ledger.
        """
        known = set(self.plan.stages) | {entry.stage for entry in self.ledger.entries.values()}
        for directory in (self.out / STAGES).glob("*"):
            if directory.name not in known:
                remove(directory)
            elif (
                f"{directory.name}/recover" not in self.ledger.entries
                and not (directory / TRAINING_FILE).exists()
            ):
                remove(*(directory / name for name in OUTPUTS["recover"] if name != "model"))

    def _record_inputs(self) -> None:
        """Record the facts about the original, the recipe and the texts."""
        original, once = self.original, self.recorder.once
        once(self.steps["original"], "", lambda: {**original.facts(), "source": self._source()})
        once(self.steps["recipe"], "", lambda: {"text": self.plan.recipe_text})
        self._write_text()
        once(self.steps["texts"], "", lambda: {"texts": self._text_facts()})

    def _write_text(self) -> None:
        """Let the original write its part of the training text."""
        from regrow.writing.text_writer import WritingSettings, write_text, written_files

        step, source, out = self.steps.get(WRITE), self.recipe.data.written, self.out / WRITTEN_FILE
        if step is None or source is None:
            return
        told = (time.monotonic(), 0)

        def advance(done: int, total: int) -> None:
            nonlocal told
            now, (before, tokens) = time.monotonic(), told
            if now - before >= _WRITING_SECONDS or done == total:
                # The first report also counts the tokens of an earlier process.
                seconds = now - before if tokens else None
                self.clock.done(WRITE, done - tokens, seconds)
                told = (now, done)
                # The last texts run on to their ends, beyond the tokens that are wanted.
                which = "the last texts" if done >= total else f"{done:,} of {total:,} tokens"
                self.recorder.report(step.stage, f"writing text, {which}")

        def write() -> Mapping[str, Any]:
            # Left by a run that was killed before it recorded the step.
            remove(*written_files(out))
            settings = WritingSettings(source.tokens or 0, seed=self.recipe.seed)
            written = write_text(self.original, out, settings, progress=advance)
            return {
                "documents": written.documents, "tokens": written.tokens,
                "dropped": dict(written.dropped), "sha256": written.sha256,
                "seconds": {"write": written.seconds},
            }  # fmt: skip

        entry = self.recorder.once(step, "writing text", write)
        if entry is not None:
            tokens, seconds = entry.outputs["tokens"], entry.outputs["seconds"]["write"]
            self.progress.say(f"{step.stage}: wrote {tokens:,} tokens in {seconds:.0f} s")
        self._check_written(out)

    def _check_written(self, out: Path) -> None:
        """Raise UserError if the text that the original wrote is missing or has changed."""
        wanted = self.ledger.entries[WRITE].outputs["sha256"]
        if not out.is_file() or hashlib.sha256(out.read_bytes()).hexdigest() != wanted:
            raise UserError(
                f"{out}: gone or changed, though the ledger says that {WRITE} is done; restore it, "
                f"or remove {self.out} and start again"
            )

    def _source(self) -> dict[str, Any] | None:
        """The facts about the file that the original was converted from; None if it was not."""
        path = self.original.path / SOURCE_FILE
        found: dict[str, Any] | None = read_json_object(path) if path.is_file() else None
        return found

    def _text_facts(self) -> list[dict[str, Any]]:
        """Documents, tokens and hash of each text."""
        texts = [("train", "train", self.plan.corpus, self.steps["texts"].inputs["train"])]
        has_tokens = self.recipe.data.special_tokens
        texts += [
            (
                name, "heldout",
                Corpus((Source(name=name, path=path),), special_tokens=has_tokens),
                self.plan.heldout[name],
            )
            for name, path in self.recipe.data.heldout.items()
        ]  # fmt: skip
        aside = self.plan.put_aside
        facts = []
        for name, role, text, sha256 in texts:
            documents, tokens = text.counts(self.original.tokenizer)
            found = {
                "name": name, "role": role, "documents": documents, "tokens": tokens,
                "sha256": sha256,
            }  # fmt: skip
            if aside is not None and role == "heldout":
                found["put_aside"] = aside.words()
            facts.append(found)
        return facts

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
            sets: tuple[Models, ...] = ("all",) if recover_step else ("all", "of stages")
            is_new = self._measure(measured, carved, sets)
            source = carved
        if recover_step is None:
            write_scores(carved, self.ledger.entries, stage.name, again=is_new)
            return carved
        before = measured_before(self.ledger.entries, stage.name, previous)
        assert before is not None
        model = self._recover(recover_step, _Start(source, uncut, before))
        remove(carved.path)
        entry = self.ledger.entries[recover_step.name]
        known = entry.outputs["trained"] if entry.outputs["kept"] == "trained" else before.outputs
        # Held-out texts may have changed since the recovery.
        unchanged = entry.outputs["heldout"] == self.plan.heldout
        is_new = self._measure(
            self.steps[f"{stage.name}/measure"], model, ("all", "of stages"),
            known if unchanged else {},
        )  # fmt: skip
        write_scores(model, self.ledger.entries, stage.name, again=is_new)
        return model

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
            repeat_cut(source, carved.path, chosen, spec, self.train_documents, self.recipe.seed)
            if entry.outputs["refitted"] and not self._is_as_left(step, carved):
                # Another machine rounds a refit differently. A recovery that is done keeps the cut
                # that it began with. Otherwise the cut is made, recorded and measured anew.
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
            source, carved.path, spec, documents=self.train_documents, seed=self.recipe.seed,
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

    def _measure(
        self,
        step: Step,
        model: ModelDirectory,
        models: Sequence[Models],
        known: Mapping[str, Any] = MappingProxyType({}),
    ) -> bool:
        """Evaluate a model; False if that was done before.

        `models`: the sets of models that it belongs to.

        `known`: results for its weights by the name of the evaluation, which are not made again.
        Only those of evaluations of all models are used.
        """

        def measure() -> Mapping[str, Any]:
            everywhere, outputs = names_for("all"), dict[str, Any]()
            if all(name in known for name in everywhere):
                outputs = {name: known[name] for name in everywhere}
                self.clock.done(step.name, 0.0)  # so that this step says nothing of the speed
            names = [name for each in models for name in names_for(each)]
            if outputs.keys() >= set(names):
                return outputs
            loaded = model.load()
            outputs = outputs or self._measure_losses(step, loaded, model.tokenizer)
            names = [name for name in names if name not in outputs]
            return outputs | self._evaluate(step, loaded, model.tokenizer, names)

        entry = self.recorder.once(step, "measuring", measure)
        if entry is not None:
            when = "after the cut" if step.kind == "measure-cut" else "held out"
            losses = losses_words(entry.outputs["heldout"])
            self.progress.say(f"{step.stage}: {when}: {losses}")
            for text, loss in entry.outputs["heldout"].items():
                if words := lost_words(Score(unknown=loss["unknown"], lost=loss["lost"])):
                    self.progress.say(f"{step.stage}: {text}: {words}")
        return entry is not None

    def _measure_speeds(self, models: Mapping[str, ModelDirectory]) -> None:
        """Let the original and the models of the stages generate in turns."""
        step = self.steps.get(SPEED)
        if step is None:
            return

        def measure() -> Mapping[str, Any]:
            speeds = measure_speeds(
                list(models.values()), new_tokens=speed.NEW_TOKENS, rounds=speed.ROUNDS
            )
            return {"speeds": dict(zip(models, map(asdict, speeds), strict=True))}

        entry = self.recorder.once(step, "measuring the speed", measure)
        if entry is not None:
            *_, last = entry.outputs["speeds"].values()
            found = Speed(**last)
            self.progress.say(
                f"speed: {found.median:.1f} tokens/s, {found.ratio:.2f} times the original's"
            )

    def _measure_losses(self, step: Step, loaded: Any, tokenizer: Any) -> dict[str, Any]:
        """The results of the evaluations of all models; they take most of the time of `step`."""
        began = time.monotonic()
        outputs = self._evaluate(step, loaded, tokenizer, names_for("all"))
        work = next(work for work in self.clock.work if work.step == step.name)
        self.clock.done(step.name, work.amount, time.monotonic() - began)
        return outputs

    def _measure_references(self) -> None:
        """Measure the losses of the original that mixtures try to reach again."""
        step = self.steps.get(REFERENCES)
        if step is None:
            return

        def measure() -> Mapping[str, Any]:
            model = self.original.load()
            found: dict[str, Mapping[str, float]] = {}
            for settings in self.plan.recoveries():
                keys = reference_keys(settings)
                if not found.keys() >= keys.keys():
                    losses = measure_references(
                        settings, model, self.original.tokenizer, self.recipe.data.heldout,
                        step.inputs["domains"], self.recipe.data.special_tokens,
                    )  # fmt: skip
                    found |= {key: losses[kind] for key, kind in keys.items()}
            return {"losses": found}

        self.recorder.once(step, "measuring what mixtures follow", measure)

    def _evaluate(
        self, step: Step, model: Any, tokenizer: Any, names: Iterable[str]
    ) -> dict[str, Any]:
        """The results of some evaluations by name."""
        found = {}
        for name in names:
            self.recorder.report(step.stage, EVALUATIONS[name].doing)
            found[name] = evaluate(name, model, tokenizer, self.evaluation_data)
        return found

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
            losses = entry.outputs["trained"]["heldout"]
            found = outcome(start.measured.outputs["heldout"], losses, entry.outputs["kept"])
            for line in worse_lines(found, str(directory / TRAINED)):
                self.progress.say(f"{step.stage}: {line}")
        self._check_output(step, model)
        remove(directory / "training", training_file)
        return model

    def _train(self, step: Step, start: _Start) -> Mapping[str, Any]:
        """Train in all processes, and keep the better weights; the outputs of the step."""
        from regrow.training.distributed.processes import join_processes

        settings = self.plan.recovery(step.stage)
        references = {
            kind: self.ledger.entries[REFERENCES].outputs["losses"][key]
            for key, kind in reference_keys(settings).items()
        }
        teachers = {"original": self.original, "previous": start.uncut}
        directory = self.out / STAGES / step.stage
        recovery = partial(
            recover, start.model, directory, settings,
            RecoveryData(
                self.plan.corpus, self.recipe.data.heldout, self.plan.heldout, references,
                self.recipe.data.special_tokens,
            ),
            seed=self.plan.data_seed(step.stage),
            teacher=None if settings.distill is None else teachers[settings.distill.teacher],
        )  # fmt: skip
        join_processes().call(recovery)
        flops_per_token = self.plan.flops_per_token(step.stage)
        first = next(iter(self.recipe.data.heldout))
        factor = bits_per_nat(start.measured.outputs["heldout"][first])
        training_progress = TrainingProgress(
            self.recorder, step.stage, flops_per_token, partial(heldout_words, factor=factor)
        )
        result = recovery(on_step=training_progress)
        began = time.monotonic()
        trained = self._measure_trained(step.stage, ModelDirectory(directory / "model"))
        measuring = time.monotonic() - began
        before = start.measured.outputs["heldout"]
        is_worse = outcome(before, trained["heldout"], "trained").mean_is_worse
        if is_worse:
            keep_untrained(start.model, directory)
        return {
            **ModelDirectory(directory / "model").facts(),
            "trained": trained,
            "kept": "before" if is_worse else "trained",
            "curve": result.curve,
            "heldout_curve": [(at, {first: loss}) for at, loss in result.heldout],
            "heldout": self.plan.heldout,
            "tokens": result.tokens,
            "predicted": result.predicted,
            "skipped": result.skipped,
            "mixtures": result.mixtures,
            "seconds": {"recover": result.seconds, "measure": measuring},
        }

    def _measure_trained(self, stage: str, model: ModelDirectory) -> dict[str, Any]:
        """The losses of a trained model, before it is known whether its weights are kept."""
        return self._measure_losses(self.steps[f"{stage}/measure"], model.load(), model.tokenizer)

    def _answer_prompts(self, step: Step, model: ModelDirectory) -> None:
        """Let a model answer the prompts."""

        def answer() -> Mapping[str, Any]:
            if not self.recipe.prompts:
                return {"answers": []}
            return self._evaluate(step, model.load(), model.tokenizer, names_for("answering"))

        self.recorder.once(step, "", answer)

    def _evaluate_tasks(self, stage: str, model: ModelDirectory) -> None:
        """Evaluate a model on the tasks of the recipe, if it has any for this stage."""
        step, tasks = self.steps.get(f"{stage}/{EVALUATE}"), self.plan.tasks
        spec = self.recipe.evaluate
        if step is None or tasks is None or spec is None or not self.plan.is_wanted(step):
            return
        work = next(work for work in self.clock.work if work.step == step.name)
        told: tuple[float, float] | None = None

        def report(doing: str, share: float) -> None:
            """Take the share of one kind of question; the next kind begins at 0 again."""
            nonlocal told
            now = time.monotonic()
            # What is known from a killed run comes with the first report, and took no time.
            if told is not None and share > told[1]:
                self.clock.done(step.name, (share - told[1]) * work.amount, now - told[0])
            told = (now, share)
            self.recorder.report(stage, doing)

        def measure() -> Mapping[str, Any]:
            return evaluate_model(stage, spec, tasks, model, self.out, self.progress, report)

        entry = self.recorder.once(step, "evaluating", measure)
        for score in entry.outputs["tasks"] if entry is not None else ():
            error = "" if score["error"] is None else f" ± {score['error']:.3f}"
            self.progress.say(
                f"{stage}: {score['task']}: {score['metric']} {score['value']:.3f}{error}"
            )
        self.clock.finish(step.name)

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
        found = (model.checkpoint.fingerprint, model.files_sha256)
        return found == (outputs["fingerprint"], outputs["files"])
