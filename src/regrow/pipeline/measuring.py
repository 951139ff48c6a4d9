"""The steps of a run that measure its models: losses, answers, tasks, references and speed."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.evaluation import speed
from regrow.evaluation.registry import (
    EVALUATIONS,
    EvaluationData,
    evaluate,
    names_for,
)
from regrow.pipeline.ledger import Step
from regrow.pipeline.outcomes import losses_words
from regrow.pipeline.run_plan import RunPlan
from regrow.pipeline.step_recorder import StepRecorder
from regrow.pipeline.steps import REFERENCES, SPEED, reference_keys
from regrow.pipeline.task_steps import EVALUATE, evaluate_model
from regrow.report.lost_text import lost_words
from regrow.report.records import Score
from regrow.training.open_mixtures import measure_references as reference_losses


class Measuring:
    """The steps of one run that measure."""

    def __init__(self, plan: RunPlan, recorder: StepRecorder) -> None:
        self._plan, self._recipe, self._original = plan, plan.recipe, plan.original
        self._steps = plan.steps
        self._recorder, self._clock, self._progress = recorder, recorder.clock, recorder.progress
        self._data = EvaluationData(
            texts=plan.recipe.heldout,
            prompts=tuple(plan.recipe.prompts),
            answer_tokens=plan.recipe.answer_tokens,
        )

    def measure(
        self,
        step: Step,
        model: ModelDirectory,
        known: Mapping[str, Any] = MappingProxyType({}),
        publish: Callable[[Mapping[str, Any]], None] = lambda outputs: None,
    ) -> None:
        """Do the evaluations that all models get, with this model, if that was not done before.

        `known`: results for its weights by the name of the evaluation, which are not made again.

        `publish`: gets the results before they are recorded, so that a kill between the two repeats
        both.
        """

        def measure() -> Mapping[str, Any]:
            outputs = results()
            publish(outputs)
            return outputs

        def results() -> Mapping[str, Any]:
            names = names_for("all")
            if all(name in known for name in names):
                self._clock.done(step.name, 0.0)  # so that this step says nothing of the speed
                return {name: known[name] for name in names}
            return self._measure_losses(step, model.load(), model.tokenizer)

        entry = self._recorder.once(step, "measuring", measure)
        if entry is not None:
            when = "after the cut" if step.kind == "measure-cut" else "held out"
            losses = losses_words(entry.heldout_losses)
            self._progress.say(f"{step.stage}: {when}: {losses}")
            for text, loss in entry.heldout_losses.items():
                if words := lost_words(Score(unknown=loss["unknown"], lost=loss["lost"])):
                    self._progress.say(f"{step.stage}: {text}: {words}")

    def losses_of(self, stage: str, model: ModelDirectory) -> dict[str, Any]:
        """The losses of a trained model, before it is known whether its weights are kept."""
        return self._measure_losses(self._steps[f"{stage}/measure"], model.load(), model.tokenizer)

    def _measure_losses(self, step: Step, loaded: Any, tokenizer: Any) -> dict[str, Any]:
        """The results of the evaluations of all models; they take most of the time of `step`."""
        began = time.monotonic()
        outputs = self._evaluate(step, loaded, tokenizer, names_for("all"))
        work = next(work for work in self._clock.work if work.step == step.name)
        self._clock.done(step.name, work.amount, time.monotonic() - began)
        return outputs

    def _evaluate(
        self, step: Step, model: Any, tokenizer: Any, names: Iterable[str]
    ) -> dict[str, Any]:
        """The results of some evaluations by name."""
        found = {}
        for name in names:
            self._recorder.report(step.stage, EVALUATIONS[name].doing)
            found[name] = evaluate(name, model, tokenizer, self._data)
        return found

    def answer_prompts(self, step: Step, model: ModelDirectory) -> None:
        """Let a model answer the prompts."""

        def answer() -> Mapping[str, Any]:
            if not self._recipe.prompts:
                return {"answers": []}
            return self._evaluate(step, model.load(), model.tokenizer, names_for("answering"))

        self._recorder.once(step, "", answer)

    def evaluate_tasks(
        self,
        stage: str,
        model: ModelDirectory,
        publish: Callable[[Mapping[str, Any]], None] = lambda outputs: None,
    ) -> None:
        """Evaluate a model on the tasks of the recipe, if it has any for this stage.

        `publish`: as for `measure`.
        """
        step, tasks = self._steps.get(f"{stage}/{EVALUATE}"), self._plan.tasks
        spec = self._recipe.evaluate
        if step is None or tasks is None or spec is None or not self._plan.is_wanted(step):
            return
        work = next(work for work in self._clock.work if work.step == step.name)
        told: tuple[float, float] | None = None

        def report(doing: str, share: float) -> None:
            """Take the share of one kind of question; the next kind begins at 0 again."""
            nonlocal told
            now = time.monotonic()
            # What is known from a killed run comes with the first report, and took no time.
            if told is not None and share > told[1]:
                self._clock.done(step.name, (share - told[1]) * work.amount, now - told[0])
            told = (now, share)
            self._recorder.report(stage, doing)

        def measure() -> Mapping[str, Any]:
            found = evaluate_model(
                stage, spec, tasks, model, self._plan.out, self._progress, report
            )
            publish(found)
            return found

        entry = self._recorder.once(step, "evaluating", measure)
        for score in entry.outputs["tasks"] if entry is not None else ():
            error = "" if score["error"] is None else f" ± {score['error']:.3f}"
            self._progress.say(
                f"{stage}: {score['task']}: {score['metric']} {score['value']:.3f}{error}"
            )
        self._clock.finish(step.name)

    def measure_references(self) -> None:
        """Measure the losses of the original that mixtures try to reach again."""
        step = self._steps.get(REFERENCES)
        if step is None:
            return

        def measure() -> Mapping[str, Any]:
            model = self._original.load()
            found: dict[str, Mapping[str, float]] = {}
            texts = {name: self._recipe.heldout[name] for name in self._recipe.data.heldout}
            for settings in self._plan.recoveries():
                keys = reference_keys(settings)
                if not found.keys() >= keys.keys():
                    losses = reference_losses(
                        settings, model, self._original.tokenizer, texts, step.inputs["domains"],
                    )  # fmt: skip
                    found |= {key: losses[kind] for key, kind in keys.items()}
            return {"losses": found}

        self._recorder.once(step, "measuring what mixtures follow", measure)

    def measure_speeds(self, models: Mapping[str, ModelDirectory]) -> None:
        """Let the original and the models of the stages generate in turns."""
        step = self._steps.get(SPEED)
        if step is None:
            return

        def measure() -> Mapping[str, Any]:
            speeds = speed.measure_speeds(
                list(models.values()), new_tokens=speed.NEW_TOKENS, rounds=speed.ROUNDS
            )
            return {"speeds": dict(zip(models, map(asdict, speeds), strict=True))}

        entry = self._recorder.once(step, "measuring the speed", measure)
        if entry is not None:
            *_, last = entry.outputs["speeds"].values()
            found = speed.Speed(**last)
            self._progress.say(
                f"speed: {found.median:.1f} tokens/s, {found.ratio:.2f} times the original's "
                f"({found.device}, in {found.dtype})"
            )
