"""The stages of a recipe in order: score, cut, carve, measure, recover, measure.

Every step is recorded in the ledger when its output stands, so a run that was killed anywhere goes
on where it stood. `regrow.pipeline.plan` says which steps there are.
"""

import datetime
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from regrow.checkpoint.gguf import SOURCE_FILE
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common import environment
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.files import (
    link_atomically,
    read_json_object,
    remove,
    write_atomically,
)
from regrow.common.progress import QUIET, Progress, Update
from regrow.corpus.sources import Corpus, Source
from regrow.evaluation.registry import EvaluationData, evaluate
from regrow.pipeline.ledger import LEDGER_FILE, Entry, Ledger, Step
from regrow.pipeline.plan import RunOptions, RunPlan, make_plan
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
from regrow.training.recovery import RecoveryData, recover


@dataclass(frozen=True)
class Result:
    """Where a run left its result.

    Attributes:
        directory: Of the run.
        model: A plain Hugging Face directory, the model of the last stage: a link to it.
        report: The page.
    """

    directory: Path
    model: Path
    report: Path


def run(recipe: Recipe, out: Path, options: RunOptions, progress: Progress = QUIET) -> Result:
    """Run all stages of a recipe in the directory `out`, from where an earlier run stood.

    Of several processes, the first does this inside `Processes.lead`, and the others train with it.
    Raises UserError before any work at whatever cannot be.
    """
    import torch

    from regrow.training.distributed.processes import join_processes

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
        join_processes().call(partial(torch.set_num_threads, recipe.threads))
    with Ledger(out) as ledger:
        work = _Run(make_plan(recipe, out, options, progress), ledger, progress)
        work.check(options.redo)
        work.all_steps()
        return work.finish()


class _Run:
    """One run: what every step needs to know."""

    def __init__(self, plan: RunPlan, ledger: Ledger, progress: Progress) -> None:
        self.plan = plan
        self.recipe = plan.recipe
        self.out = plan.out
        self.original = plan.original
        self.steps = plan.steps
        self.ledger = ledger
        self.progress = progress
        self.clock = Clock(plan.pieces())
        self.evaluation_data = EvaluationData(
            texts=plan.recipe.data.heldout,
            prompts=tuple(plan.recipe.prompts),
            answer_tokens=plan.recipe.answer_tokens,
        )

    def train_documents(self) -> Iterator[str]:
        return self.plan.corpus.documents(self.original.tokenizer)

    # Checks before any work

    def check(self, redo: bool) -> None:
        """Raise UserError where the run cannot be done, or an earlier one was another."""
        self._check_changes(redo)
        to_do = [
            step
            for step in self.steps.values()
            if self.ledger.done(step) is None and self.plan.is_wanted(step)
        ]
        counts = {stage: self.plan.count(stage) for stage in self.plan.stages}
        stored = self.original.weight_bytes / self.plan.count("original")
        needed = bytes_needed(to_do, counts, stored)
        # What a training that goes on has saved lies where it will be replaced.
        trained = [step.stage for step in to_do if step.kind == "recover"]
        saved = [(self.out / STAGES / stage).glob("training/*/*") for stage in trained]
        needed -= sum(path.stat().st_size for found in saved for path in found)
        if needed > 0:
            check_free_space(self.out / STAGES, needed)
        for stage in trained:
            settings = self.plan.stages[stage].recover
            assert settings is not None
            check_machine(stage, settings)
            if teacher := self.plan.teacher_count(stage):
                check_memory(stage, self.plan.count(stage), teacher, settings.precision)
        for line in done_elsewhere(self.ledger.entries.values()):
            self.progress.say(line)

    def _check_changes(self, redo: bool) -> None:
        changes = find_changes(self.steps, self.ledger.entries, self.out)
        # A comparison that nobody asks for now is not made again.
        dropped = {CONTROL, AT_ONCE} - {stage.name for stage in self.plan.comparisons}
        words = changes.words(dropped)
        if not words:
            return
        if not redo:
            refuse_changes(changes.reasons, words, self.out)
        self.progress.say(f"doing again, since the recipe changed: {words}")
        self.ledger.forget([entry.step for entry in changes.entries])
        for entry in changes.entries:
            if entry.kind in ("carve", "recover"):
                kept = {"carve": ("carved",), "recover": ("training", "model", TRAINING_FILE)}
                remove(*(self.out / STAGES / entry.stage / name for name in kept[entry.kind]))
        for stage in changes.trainings:
            remove(*(self.out / STAGES / stage / name for name in ("training", TRAINING_FILE)))

    # The steps

    def all_steps(self) -> None:
        _sweep(self.out)
        self._remove_strangers()
        self._record_original()
        last = self.original
        self._measure(self.steps["original/measure"], self.original, speak=True)
        self._references()
        for stage in self.recipe.stages:
            last = self._stage(stage, last)
        self._samples(last)
        for stage in self.plan.comparisons:
            self._stage(stage, self.original)

    def once(self, step: Step, doing: str, make: Callable[[], Mapping[str, Any]]) -> Entry | None:
        """Do a step and record what comes out, unless an earlier run did it; then None."""
        if self.ledger.done(step) is not None:
            return None
        if doing:
            self._tell(step.stage, doing)
        started = datetime.datetime.now(datetime.UTC).isoformat()
        began = time.monotonic()
        outputs = make()
        where = {
            "versions": environment.versions(),
            "machine": environment.machine(),
            "command": environment.command(),
            "seed": self.recipe.seed,
        }
        seconds = time.monotonic() - began
        entry = Entry(step.name, step.key, step.inputs, outputs, where, started, seconds)
        self.ledger.record(entry)
        return entry

    def _remove_strangers(self) -> None:
        """Stages that the recipe no longer has, and that the ledger no longer knows."""
        known = set(self.plan.stages) | {entry.stage for entry in self.ledger.entries.values()}
        remove(*(path for path in (self.out / STAGES).glob("*") if path.name not in known))

    def _record_original(self) -> None:
        original = self.original
        self.once(
            self.steps["original"], "", lambda: {**original.facts(), "source": self._source()}
        )
        self.once(self.steps["recipe"], "", lambda: {"text": self.plan.recipe_text})
        self.once(self.steps["texts"], "", lambda: {"texts": self._text_facts()})

    def _source(self) -> dict[str, Any] | None:
        """Where the original came from, where it was converted."""
        path = self.original.path / SOURCE_FILE
        found: dict[str, Any] | None = read_json_object(path) if path.is_file() else None
        return found

    def _text_facts(self) -> list[dict[str, Any]]:
        texts = [("train", "train", self.plan.corpus, self.steps["texts"].inputs["train"])]
        texts += [
            (name, "heldout", Corpus((Source(name=name, path=path),)), self.plan.heldout[name])
            for name, path in self.recipe.data.heldout.items()
        ]
        facts = []
        for name, role, text, sha256 in texts:
            documents, tokens = text.counts(self.original.tokenizer)
            facts.append(
                {
                    "name": name, "role": role, "documents": documents, "tokens": tokens,
                    "sha256": sha256,
                }
            )  # fmt: skip
        return facts

    def _stage(self, stage: Stage, source: ModelDirectory) -> ModelDirectory:
        """Cut and recover; the model of the stage."""
        place = self.out / STAGES / stage.name
        place.mkdir(parents=True, exist_ok=True)
        _sweep(place)
        previous, recover_step = source, self.steps.get(f"{stage.name}/recover")
        carved = ModelDirectory(place / "carved")
        if stage.cut is not None:
            measured = self.steps[f"{stage.name}/measure-cut"]
            recovered = recover_step is not None and self.ledger.done(recover_step) is not None
            if not recovered or self.ledger.done(measured) is None:
                self._carve(self.steps[f"{stage.name}/carve"], stage.cut, source, carved)
            self.clock.finish(f"{stage.name}/carve")
            self._measure(measured, carved, speed=recover_step is None)
            source = carved
        if recover_step is None:
            return carved
        model = self._recover(recover_step, source, previous)
        remove(carved.path)
        self._measure(self.steps[f"{stage.name}/measure"], model)
        return model

    def _carve(
        self, step: Step, spec: CutSpec, source: ModelDirectory, carved: ModelDirectory
    ) -> None:
        entry = self.ledger.done(step)
        if entry is None:
            remove(carved.path)
            self.once(step, "scoring and cutting", partial(self._cut, step, spec, source, carved))
            return
        if not carved.path.exists():
            # The recovery after this cut is done again, and its model had taken the cut's place.
            self._tell(step.stage, "cutting again")
            if spec.cut is not None:
                prune_checkpoint(source, carved.path, spec)
            else:
                where = f"{self.ledger.path}: {entry.step}: cut"
                cut = Cut.from_json(entry.outputs["cut"], where)
                repeat_cut(source, carved.path, cut, spec, self.train_documents)
        self._check_output(step, carved)

    def _cut(
        self, step: Step, spec: CutSpec, source: ModelDirectory, carved: ModelDirectory
    ) -> Mapping[str, Any]:
        began = time.monotonic()
        result = prune_checkpoint(
            source, carved.path, spec, documents=self.train_documents, seed=self.recipe.seed,
            progress=Progress(say=lambda text: self._tell(step.stage, text)),
        )  # fmt: skip
        self.progress.say(f"{step.stage}: {result.cut.words()}, {result.parameters:,} parameters")
        seconds = time.monotonic() - began
        return {
            **carved.facts(),
            "words": result.cut.words(),
            "cut": result.cut.to_json(),
            "notes": list(result.notes),
            "seconds": {"carve": result.seconds, "score": seconds - result.seconds},
        }

    def _measure(
        self, step: Step, model: ModelDirectory, *, speed: bool = True, speak: bool = False
    ) -> None:
        """Held-out losses; generation speed and answers to the prompts where asked for."""

        def measure() -> Mapping[str, Any]:
            began = time.monotonic()
            loaded = model.load()
            found = evaluate("heldout", loaded, model.tokenizer, self.evaluation_data)
            piece = next(piece for piece in self.clock.pieces if piece.step == step.name)
            self.clock.done(step.name, piece.amount, time.monotonic() - began)
            outputs: dict[str, Any] = {"heldout": found}
            if speed:
                outputs["tokens_per_second"] = evaluate(
                    "tokens_per_second", loaded, model.tokenizer, self.evaluation_data
                )
            if speak:
                self._tell(step.stage, "answering the prompts")
                outputs["answers"] = self._answers(loaded, model.tokenizer)
            return outputs

        entry = self.once(step, "measuring", measure)
        if entry is not None:
            losses = ", ".join(
                f"{text} {loss['loss_per_token']:.3f}"
                for text, loss in entry.outputs["heldout"].items()
            )
            when = "after the cut" if step.kind == "measure-cut" else "held out"
            self.progress.say(f"{step.stage}: loss {when}: {losses}")
        self.clock.finish(step.name)
        if speak:
            self.clock.finish("original/speak")

    def _references(self) -> None:
        """Losses of the original that mixtures are to get back to."""
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
                        step.inputs["domains"],
                    )  # fmt: skip
                    found |= {key: losses[kind] for key, kind in keys.items()}
            return {"losses": found}

        self.once(step, "measuring what mixtures follow", measure)
        self.clock.finish(step.name)

    def _answers(self, model: Any, tokenizer: Any) -> list[str]:
        answers: list[str] = evaluate("answers", model, tokenizer, self.evaluation_data)
        return answers

    def _recover(
        self, step: Step, source: ModelDirectory, previous: ModelDirectory
    ) -> ModelDirectory:
        """`source`: the model that is trained; `previous`: the one that it was cut from."""
        place = self.out / STAGES / step.stage
        model, begun = ModelDirectory(place / "model"), place / TRAINING_FILE
        if self.ledger.done(step) is None:
            # Whose checkpoints these are is known before the first is written.
            text = json.dumps({"key": step.key, "inputs": step.inputs})
            write_atomically(begun, text.encode())
            remove(model.path)
        entry = self.once(step, "recovering", partial(self._train, step, source, previous))
        if entry is not None:
            tokens, seconds = entry.outputs["tokens"], entry.outputs["seconds"]["recover"]
            rate = tokens / seconds if seconds else 0.0
            self.progress.say(
                f"{step.stage}: {tokens:,} tokens in {seconds:.0f} s, {rate:,.0f} a second"
            )
        self._check_output(step, model)
        self.clock.finish(step.name)
        remove(place / "training", begun)
        return model

    def _train(
        self, step: Step, source: ModelDirectory, previous: ModelDirectory
    ) -> Mapping[str, Any]:
        from regrow.training.distributed.processes import join_processes

        settings = self.plan.stages[step.stage].recover
        assert settings is not None
        references = {
            kind: self.ledger.entries[REFERENCES].outputs["losses"][key]
            for key, kind in reference_keys(settings).items()
        }
        teachers = {"original": self.original, "previous": previous}
        place = self.out / STAGES / step.stage
        recovery = partial(
            recover, source, place, settings,
            RecoveryData(
                self.plan.corpus, self.recipe.data.heldout, self.plan.heldout, references
            ),
            seed=self.plan.data_seed(step.stage),
            teacher=None if settings.distill is None else teachers[settings.distill.teacher],
        )  # fmt: skip
        join_processes().call(recovery)
        result = recovery(on_step=_StepWatcher(self, step.stage))
        first = next(iter(self.recipe.data.heldout))
        return {
            **ModelDirectory(place / "model").facts(),
            "curve": result.curve,
            "heldout_curve": [(at, {first: loss}) for at, loss in result.heldout],
            "heldout": self.plan.heldout,
            "tokens": result.tokens,
            "predicted": result.predicted,
            "skipped": result.skipped,
            "mixtures": result.mixtures,
            "seconds": {"recover": result.seconds},
        }

    def _samples(self, model: ModelDirectory) -> None:
        def answer() -> Mapping[str, Any]:
            answers = self._answers(model.load(), model.tokenizer)
            return {"answers": answers, "model": str(model.path)}

        self.once(self.steps["result/samples"], "answering the prompts", answer)
        self.clock.finish("result/samples")

    def finish(self) -> Result:
        """Write the report; where everything is."""
        from regrow.pipeline.summary import summarise
        from regrow.report.page import write_page

        last = self.recipe.stages[-1]
        made = Path(STAGES, last.name, "model" if last.recover else "carved")
        link_atomically(self.out / "model", made)
        report = self.out / "report.html"
        write_page(summarise(self.out), report)
        return Result(self.out, self.out / "model", report)

    # Small things

    def _check_output(self, step: Step, model: ModelDirectory) -> None:
        """What the ledger says is there must be there, unchanged."""
        entry = self.ledger.entries[step.name]
        if not model.path.is_dir():
            raise UserError(
                f"{model.path}: gone, though the ledger says that {step.name} is done; "
                f"restore it, or remove {self.out} and start again"
            )
        found = (model.checkpoint.fingerprint, model.files_sha256)
        if found != (entry.outputs["fingerprint"], entry.outputs["files"]):
            raise UserError(
                f"{model.path}: not as {step.name} left it; restore it, or remove {self.out} and "
                "start again"
            )

    def _tell(self, stage: str, doing: str, report: Any = None, rate: float | None = None) -> None:
        loss = None if report is None else report.loss
        self.progress.update(Update(stage, doing, self.clock.share, self.clock.left, loss, rate))


class _StepWatcher:
    """Turns the reports of training steps into the time that the run still takes."""

    def __init__(self, run: _Run, stage: str) -> None:
        self._run, self._stage = run, stage
        self._last, self._tokens = time.monotonic(), 0

    def __call__(self, report: Any) -> None:
        seconds, new = time.monotonic() - self._last, report.tokens - self._tokens
        resumed = self._tokens == 0 and report.step > 1
        work = self._run.plan.flops_per_token(self._stage) * new
        self._run.clock.done(f"{self._stage}/recover", work, None if resumed else seconds)
        self._last, self._tokens = time.monotonic(), report.tokens
        doing = f"step {report.step:,} of {report.steps:,}"
        self._run._tell(self._stage, doing, report, None if resumed else new / seconds)


def _sweep(directory: Path) -> None:
    """Remove what killed writes left behind."""
    names = (".*.partial", f".{LEDGER_FILE}.*", f".{TRAINING_FILE}.*", ".report.html.*")
    remove(*(path for name in names for path in directory.glob(name)))
