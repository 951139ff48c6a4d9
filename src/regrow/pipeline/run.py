"""The stages of a recipe in order: score, cut, carve, measure, recover, measure.

Every step is recorded in the ledger when its output stands, so a run that was killed anywhere goes
on where it stood. What they will be is `regrow.pipeline.plan`'s.
"""

import datetime
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from regrow.checkpoint.facts import files_sha256, model_facts
from regrow.checkpoint.gguf import SOURCE_FILE
from regrow.checkpoint.reader import open_checkpoint
from regrow.common import environment
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.files import read_json_object, sync_directory, write_atomically
from regrow.corpus.sources import Corpus, Source
from regrow.evaluation.registry import EvaluationData, evaluate
from regrow.models.loading import load_model, load_tokenizer
from regrow.pipeline.ledger import FILE_NAME, Entry, Ledger, Step
from regrow.pipeline.plan import RunPlan, make_plan
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.run_checks import (
    bytes_needed,
    check_machine,
    check_memory,
    done_elsewhere,
    refuse_changes,
)
from regrow.pipeline.steps import (
    AT_ONCE,
    CONTROL,
    REFERENCES,
    STAGES,
    TRAINING_FILE,
    find_changes,
    reference_keys,
)
from regrow.pipeline.time_left import Clock
from regrow.surgery.cut import Cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint, repeat_cut
from regrow.training.mixtures import measure_references

Say = Callable[[str], None]


@dataclass(frozen=True)
class Update:
    """What a run is doing, for whoever watches."""

    stage: str
    doing: str
    share: float
    """Part of the whole run that is behind, from 0 to 1."""
    seconds_left: float
    loss: float | None = None
    tokens_per_second: float | None = None


Watch = Callable[[Update], None]


@dataclass(frozen=True)
class Result:
    """Where a run left its result."""

    directory: Path
    model: Path
    report: Path


def run(
    recipe: Recipe,
    out: Path,
    *,
    recipe_text: str = "",
    compare: Collection[str] = (),
    redo: bool = False,
    say: Say = lambda _: None,
    watch: Watch = lambda _: None,
) -> Result:
    """Run all stages of a recipe in the directory `out`, from where an earlier run stood.

    `compare`: what else is trained on the same tokens: "control", the original; "at-once", the
    original with all cuts made in one. `redo`: where the recipe changed, do again what that
    invalidates; without it a change is an error.
    Of several processes, the first does this inside `Processes.lead`, and the others train with it.
    Raises UserError before any work at whatever cannot be.
    """
    import torch

    from regrow.training.distributed.processes import join_processes

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
        join_processes().call(partial(torch.set_num_threads, recipe.threads))
    with Ledger(out) as ledger:
        plan = make_plan(recipe, out, recipe_text, compare, say)
        work = _Run(plan, ledger, say, watch)
        work.check(redo)
        work.all_steps()
        return work.finish()


class _Run:
    """One run: what every step needs to know."""

    def __init__(self, plan: RunPlan, ledger: Ledger, say: Say, watch: Watch) -> None:
        self.plan = plan
        self.recipe = plan.recipe
        self.out = plan.out
        self.original = plan.original
        self.steps = plan.steps
        self.ledger = ledger
        self.say = say
        self.watch = watch
        self.clock = Clock(plan.pieces())
        self.evaluation_data = EvaluationData(
            texts=plan.recipe.data.heldout,
            prompts=tuple(plan.recipe.prompts),
            answer_tokens=plan.recipe.answer_tokens,
        )

    def train_documents(self) -> Iterator[str]:
        return self.plan.corpus.documents(load_tokenizer(self.original))

    # Checks before any work

    def check(self, redo: bool) -> None:
        """Raise UserError where the run cannot be done, or an earlier one was another."""
        self._check_changes(redo)
        to_do = [
            name
            for name, step in self.steps.items()
            if self.ledger.done(step) is None and self.plan.is_wanted(name)
        ]
        stored = sum(info.nbytes for info in self.plan.source.tensors.values())
        counts = {stage: self.plan.count(stage) for stage in self.plan.stages}
        needed = bytes_needed(to_do, counts, stored / self.plan.count(""))
        # What a training that goes on has saved lies where it will be replaced.
        stages = [name.partition("/")[0] for name in to_do if name.endswith("/recover")]
        saved = [(self.out / STAGES / stage).glob("training/*/*") for stage in stages]
        needed -= sum(path.stat().st_size for found in saved for path in found)
        if needed > 0:
            check_free_space(self.out / STAGES, needed)
        for name in to_do:
            stage, _, what = name.partition("/")
            settings = self.plan.stages[stage].recover if what == "recover" else None
            if settings is None:
                continue
            check_machine(stage, settings)
            if teacher := self.plan.teacher_count(stage):
                check_memory(stage, self.plan.count(stage), teacher, settings.precision)
        for line in done_elsewhere(self.ledger.entries.values()):
            self.say(line)

    def _check_changes(self, redo: bool) -> None:
        changes = find_changes(self.steps, self.ledger.entries, self.out)
        # A comparison that nobody asks for now is not made again.
        dropped = {CONTROL, AT_ONCE} - {stage.name for stage in self.plan.comparisons}
        words = changes.words(dropped)
        if not words:
            return
        if not redo:
            refuse_changes(changes.reasons, words, self.out)
        self.say(f"doing again, since the recipe changed: {words}")
        self.ledger.forget(changes.steps)
        for name in changes.steps:
            stage, _, what = name.partition("/")
            if what in ("carve", "recover"):
                parts = ("carved",) if what == "carve" else ("training", "model", TRAINING_FILE)
                _remove(*(self.out / STAGES / stage / part for part in parts))
        for stage in changes.trainings:
            _remove(*(self.out / STAGES / stage / part for part in ("training", TRAINING_FILE)))

    # The steps

    def all_steps(self) -> None:
        _sweep(self.out)
        self._remove_strangers()
        self._record_original()
        last = self.original
        self._measure("original/measure", self.original, speak=True)
        self._references()
        for stage in self.recipe.stages:
            last = self._stage(stage, last)
        self._samples(last)
        for stage in self.plan.comparisons:
            self._stage(stage, self.original)

    def _remove_strangers(self) -> None:
        """Stages that the recipe no longer has, and that the ledger no longer knows."""
        known = set(self.plan.stages)
        known |= {name.partition("/")[0] for name in self.ledger.entries}
        _remove(*(p for p in (self.out / STAGES).glob("*") if p.name not in known))

    def _record_original(self) -> None:
        for name, outputs in (
            ("original", lambda: {**model_facts(self.original), "source": self._source()}),
            ("recipe", lambda: {"text": self.plan.recipe_text}),
            ("texts", lambda: {"texts": self._text_facts()}),
        ):
            if self.ledger.done(self.steps[name]) is None:
                began = time.time()
                self._record(self.steps[name], outputs(), began, time.time() - began)

    def _text_facts(self) -> list[dict[str, Any]]:
        tokenizer = load_tokenizer(self.original)
        texts = [("train", "train", self.plan.corpus, self.steps["texts"].inputs["train"])]
        texts += [
            (name, "heldout", Corpus((Source(name=name, path=path),)), self.plan.heldout[name])
            for name, path in self.recipe.data.heldout.items()
        ]
        facts = []
        for name, role, text, sha256 in texts:
            documents, tokens = text.counts(tokenizer)
            facts.append(
                {
                    "name": name, "role": role, "documents": documents, "tokens": tokens,
                    "sha256": sha256,
                }
            )  # fmt: skip
        return facts

    def _stage(self, stage: Stage, source: Path) -> Path:
        """Cut and recover; the directory of the stage's model."""
        directory = self.out / STAGES / stage.name
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        carved, model, previous = directory / "carved", directory / "model", source
        recover = self.steps.get(f"{stage.name}/recover")
        if stage.cut is not None:
            measured = f"{stage.name}/measure-cut"
            recovered = recover is not None and self.ledger.done(recover) is not None
            if not recovered or self.ledger.done(self.steps[measured]) is None:
                self._carve(stage.name, stage.cut, source, carved)
            self.clock.finish(f"{stage.name}/carve")
            self._measure(measured, carved, speed=recover is None)
            source = carved
        if recover is None:
            return carved
        self._recover(stage, source, model, previous)
        _remove(carved)
        self._measure(f"{stage.name}/measure", model)
        return model

    def _recover(self, stage: Stage, source: Path, model: Path, previous: Path) -> None:
        """`source`: the model that is trained; `previous`: what it was cut from."""
        step = self.steps[f"{stage.name}/recover"]
        training, begun = model.parent / "training", model.parent / TRAINING_FILE
        if self.ledger.done(step) is None:
            begun.parent.mkdir(parents=True, exist_ok=True)
            # Whose checkpoints these are is known before the first is written.
            text = json.dumps({"key": step.key, "inputs": step.inputs})
            write_atomically(begun, text.encode())
            distill = stage.recover.distill if stage.recover else None
            teachers = {"original": self.original, "previous": previous}
            teacher = None if distill is None else teachers[distill.teacher]
            self._train(step, source, training, model, teacher)
        self._check_output(step, model)
        self.clock.finish(step.name)
        _remove(training, begun)

    def _carve(self, stage: str, spec: CutSpec, source: Path, carved: Path) -> None:
        step = self.steps[f"{stage}/carve"]
        entry = self.ledger.done(step)
        if entry is not None:
            if not carved.exists():
                # The recovery after it is done again, and had taken its place.
                self._cut_again(stage, spec, source, carved, entry)
            self._check_output(step, carved)
            return
        _remove(carved)
        began = time.time()
        self._tell(stage, "scoring and cutting")
        result = prune_checkpoint(
            source, carved, spec, documents=self.train_documents, seed=self.recipe.seed,
            notify=lambda text: self._tell(stage, text),
        )  # fmt: skip
        # The ledger must not outlive what it speaks of.
        for path in (*carved.iterdir(), carved, carved.parent):
            sync_directory(path)
        outputs = {
            **model_facts(carved),
            "words": result.cut.words(),
            "cut": result.cut.to_json(),
            "notes": list(result.notes),
            "seconds": {"carve": result.seconds, "score": time.time() - began - result.seconds},
        }
        self._record(step, outputs, began, time.time() - began)
        self.say(f"{stage}: {result.cut.words()}, {result.parameters:,} parameters")

    def _cut_again(
        self, stage: str, spec: CutSpec, source: Path, carved: Path, entry: Entry
    ) -> None:
        self._tell(stage, "cutting again")
        if spec.cut is not None:
            prune_checkpoint(source, carved, spec)
        else:
            cut = Cut.from_json(entry.outputs["cut"], f"{self.out / FILE_NAME}: {entry.step}: cut")
            repeat_cut(source, carved, cut, spec, self.train_documents)

    def _measure(
        self, name: str, directory: Path, *, speed: bool = True, speak: bool = False
    ) -> None:
        """Held-out losses; generation speed and answers to the prompts where asked for."""
        step = self.steps[name]
        if self.ledger.done(step) is None:
            began = time.time()
            stage = name.partition("/")[0]
            self._tell(stage, "measuring")
            model, tokenizer = load_model(directory), load_tokenizer(directory)
            found = evaluate("heldout", model, tokenizer, self.evaluation_data)
            outputs: dict[str, Any] = {"heldout": found}
            self._spent(name, time.time() - began)
            if speed:
                outputs["tokens_per_second"] = evaluate(
                    "tokens_per_second", model, tokenizer, self.evaluation_data
                )
            if speak:
                self._tell(stage, "answering the prompts")
                outputs["answers"] = self._answers(model, tokenizer)
                self.clock.finish("original/speak")
            self._record(step, outputs, began, time.time() - began)
            losses = ", ".join(
                f"{text} {loss['loss_per_token']:.3f}" for text, loss in found.items()
            )
            when = "after the cut" if name.endswith("measure-cut") else "held out"
            self.say(f"{stage}: loss {when}: {losses}")
        self.clock.finish(name)
        self.clock.finish("original/speak" if speak else name)

    def _references(self) -> None:
        """Losses of the original that mixtures are to get back to."""
        step = self.steps.get(REFERENCES)
        if step is None:
            return
        if self.ledger.done(step) is None:
            began = time.time()
            self._tell("original", "measuring what mixtures follow")
            model, tokenizer = load_model(self.original), load_tokenizer(self.original)
            found: dict[str, Mapping[str, float]] = {}
            for settings in self.plan.recoveries():
                keys = reference_keys(settings)
                if not found.keys() >= keys.keys():
                    measured = measure_references(
                        settings, model, tokenizer, self.recipe.data.heldout,
                        step.inputs["domains"],
                    )  # fmt: skip
                    found |= {key: measured[kind] for key, kind in keys.items()}
            self._record(step, {"losses": found}, began, time.time() - began)
        self.clock.finish(step.name)

    def _answers(self, model: Any, tokenizer: Any) -> list[str]:
        answers: list[str] = evaluate("answers", model, tokenizer, self.evaluation_data)
        return answers

    def _train(
        self, step: Step, source: Path, training: Path, model_out: Path, teacher: Path | None
    ) -> None:
        from regrow.training.distributed.processes import join_processes
        from regrow.training.loop import StepReport
        from regrow.training.recovery import recover

        _remove(model_out)
        began = time.time()
        stage = step.name.partition("/")[0]
        settings = self.plan.stages[stage].recover
        assert settings is not None
        self._tell(stage, "recovering")
        name, path = next(iter(self.recipe.data.heldout.items()))
        references = {
            kind: self.ledger.entries[REFERENCES].outputs["losses"][key]
            for key, kind in reference_keys(settings).items()
        }
        flops = self.plan.flops_of_token(stage)
        last = time.monotonic()
        tokens = 0

        def on_step(report: StepReport) -> None:
            nonlocal last, tokens
            seconds, new = time.monotonic() - last, report.tokens - tokens
            resumed = tokens == 0 and report.step > 1
            self.clock.done(step.name, flops * new, None if resumed else seconds)
            last, tokens = time.monotonic(), report.tokens
            rate = None if resumed else new / seconds
            self._tell(stage, "recovering", report.loss, rate)

        recovery = partial(
            recover, source, model_out, settings, self.plan.corpus, seed=self.plan.data_seed(stage),
            training=training, heldout=path, heldout_identity=self.plan.heldout[name],
            texts=self.recipe.data.heldout, references=references, teacher=teacher,
        )  # fmt: skip
        join_processes().call(recovery)
        result = recovery(on_step=on_step)
        outputs = {
            **model_facts(model_out),
            "curve": result.curve,
            "heldout_curve": [(at, {name: loss}) for at, loss in result.heldout],
            "heldout": self.plan.heldout,
            "tokens": result.tokens,
            "predicted": result.predicted,
            "mixtures": result.steering,
            "seconds": {"recover": result.seconds},
        }
        self._record(step, outputs, began, time.time() - began)
        rate = result.tokens / result.seconds if result.seconds else 0.0
        self.say(
            f"{stage}: {result.tokens:,} tokens in {result.seconds:.0f} s, {rate:,.0f} a second"
        )

    def _samples(self, directory: Path) -> None:
        step = self.steps["result/samples"]
        if self.ledger.done(step) is None:
            began = time.time()
            self._tell("result", "answering the prompts")
            answers = self._answers(load_model(directory), load_tokenizer(directory))
            self._record(
                step, {"answers": answers, "model": str(directory)}, began, time.time() - began
            )
        self.clock.finish("result/samples")

    def finish(self) -> Result:
        """Write the report; where everything is."""
        from regrow.pipeline.summary import summarise
        from regrow.report.page import write_page

        last = self.recipe.stages[-1]
        model = self.out / STAGES / last.name / ("model" if last.recover else "carved")
        report = self.out / "report.html"
        write_page(summarise(self.out), report)
        return Result(self.out, model, report)

    # Small things

    def _source(self) -> dict[str, Any] | None:
        """Where the original came from, where it was converted."""
        path = self.original / SOURCE_FILE
        found: dict[str, Any] | None = read_json_object(path) if path.is_file() else None
        return found

    def _check_output(self, step: Step, directory: Path) -> None:
        """What the ledger says is there must be there, unchanged."""
        entry = self.ledger.entries[step.name]
        if not directory.is_dir():
            raise UserError(
                f"{directory}: gone, though the ledger says that {step.name} is done; "
                f"restore it, or remove {self.out} and start again"
            )
        found = (open_checkpoint(directory).fingerprint, files_sha256(directory))
        if found != (entry.outputs["fingerprint"], entry.outputs["files"]):
            raise UserError(
                f"{directory}: not as {step.name} left it; restore it, or remove {self.out} and "
                "start again"
            )

    def _record(self, step: Step, outputs: Mapping[str, Any], began: float, seconds: float) -> None:
        started = datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat()
        self.ledger.record(
            Entry(
                step.name, step.key, step.inputs, outputs,
                {
                    "versions": environment.versions(),
                    "machine": environment.machine(),
                    "command": environment.command(),
                    "seed": self.recipe.seed,
                },
                started, seconds,
            )
        )  # fmt: skip

    def _spent(self, name: str, seconds: float) -> None:
        piece = next(p for p in self.clock.pieces if p.step == name)
        self.clock.done(name, piece.amount, seconds)

    def _tell(
        self, stage: str, doing: str, loss: float | None = None, rate: float | None = None
    ) -> None:
        self.watch(Update(stage, doing, self.clock.share, self.clock.left, loss, rate))


def _sweep(directory: Path) -> None:
    """Remove what killed writes left behind."""
    names = (".*.partial", f".{FILE_NAME}.*", f".{TRAINING_FILE}.*", ".report.html.*")
    _remove(*(path for name in names for path in directory.glob(name)))


def _remove(*paths: Path) -> None:
    """Remove files and directories that may be there; a directory at once, by another name."""
    for path in paths:
        if path.is_dir():
            doomed = path
            if not path.name.startswith("."):
                doomed = path.with_name(f".{path.name}.partial")
                shutil.rmtree(doomed, ignore_errors=True)
                path.rename(doomed)
            shutil.rmtree(doomed)
        else:
            path.unlink(missing_ok=True)
