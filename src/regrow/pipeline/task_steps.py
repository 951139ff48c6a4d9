"""The steps of a run that evaluate models on tasks of lm-eval.

The original and the model of the last stage are evaluated, or the models of all stages if the
recipe says so. The answers are kept in the directory of the run, so a step that was killed goes on
with the next question.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress, Update
from regrow.evaluation.task_spec import TaskSpec
from regrow.pipeline.recipe import Recipe

EVALUATE = "evaluate"
"""The kind of the steps that evaluate on tasks."""
ANSWERS = "evaluation"
"""The directory of the answers inside the directory of a run."""
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class RunTasks:
    """The tasks of a run with their questions.

    Attributes:
        found: Of `regrow.evaluation.tasks.find.find_tasks`.
        content: A hash of all questions.
        tokens: Roughly the tokens that a model reads.
    """

    found: Any
    content: str
    tokens: float


def load_tasks(recipe: Recipe, progress: Progress) -> RunTasks | None:
    """The tasks of a recipe; None if it evaluates none.

    Raises UserError, with the key, if there is no such task, its questions cannot be read, or
    it has no such demonstrations.
    """
    spec = recipe.evaluate
    if spec is None:
        return None
    from regrow.evaluation.require import require_lm_eval

    try:
        require_lm_eval()
        from regrow.evaluation.tasks.find import find_tasks
        from regrow.evaluation.tasks.shots import check_shots, shots_of

        progress.say(f"reading the questions of {', '.join(spec.tasks)}")
        found = find_tasks(spec.tasks, data=spec.data, mode=spec.mode, say=progress.say)
        check_shots(found, spec.shots)
    except UserError as error:
        raise error.within("evaluate.") from None
    shots = shots_of(found, spec.shots)
    digest, size = hashlib.sha256(), 0
    for name, task in found.tasks.items():
        config = json.dumps(task.dump_config(), sort_keys=True, default=str)
        digest.update(name.encode() + b"\0" + config.encode() + b"\0")
        for number, doc in enumerate(task.eval_docs):
            if spec.limit is not None and number >= spec.limit:
                break
            text = json.dumps(doc, sort_keys=True, default=str).encode()
            digest.update(text)
            size += len(text) * (1 + shots[name])
    return RunTasks(found, digest.hexdigest(), size / _BYTES_PER_TOKEN)


def evaluate_inputs(recipe: Recipe, questions: str) -> dict[str, Any]:
    """What decides the scores of a model, beside the model; empty if nothing is evaluated.

    `questions`: their hash.
    """
    if recipe.evaluate is None:
        return {}
    settings = recipe.evaluate.model_dump(
        mode="json", exclude={"data", "stages"}, exclude_defaults=True
    )
    # The content of task files is in the hash of the questions.
    settings["tasks"] = [
        Path(name).name if name.endswith((".yaml", ".yml")) else name
        for name in recipe.evaluate.tasks
    ]
    return {"evaluate": settings, "questions": questions}


def evaluated_stages(recipe: Recipe) -> tuple[str, ...]:
    """The stages whose models are evaluated, and `original`; none if nothing is evaluated."""
    if recipe.evaluate is None:
        return ()
    names = [stage.name for stage in recipe.stages]
    return ("original", *(names if recipe.evaluate.stages else names[-1:]))


def evaluate_model(
    stage: str,
    spec: TaskSpec,
    tasks: RunTasks,
    model: ModelDirectory,
    out: Path,
    progress: Progress,
    report: Callable[[str, float], None],
) -> dict[str, Any]:
    """The scores of a model, as the ledger keeps them.

    Args:
        stage: Names the model in messages.
        spec: How the model is asked.
        tasks: The tasks.
        model: The model.
        out: The directory of the run.
        progress: Receives messages.
        report: Takes what is being done, and the fraction that is done.
    """
    from regrow.evaluation.task_evaluation import evaluate_models

    def update(at: Update) -> None:
        report(f"evaluating, {at.doing}", at.share)

    (found,) = evaluate_models(
        {stage: model}, tasks.found, spec, out / ANSWERS,
        Progress(say=progress.say, update=update),
    )  # fmt: skip
    return {
        "precision": found.precision,
        "tasks": [
            {
                "task": score.task, "metric": score.metric, "value": score.value,
                "error": score.error, "chance": score.chance, "questions": score.questions,
                "higher_is_better": score.higher_is_better, "shots": score.shots,
                "metrics": {name: each.value for name, each in score.metrics.items()},
                "predicted": dict(score.predicted), "marks": _packed(score.marks),
            }
            for score in found.tasks
        ],
        "groups": [
            {
                "task": group.group, "metric": group.metric, "value": group.value,
                "error": group.error, "chance": group.chance, "questions": group.questions,
                "tasks": list(group.tasks),
            }
            for group in found.groups
        ],
    }  # fmt: skip


def _packed(marks: Mapping[str, float]) -> str:
    """Right and wrong answers in order as `1` and `0`; empty if marks have other values."""
    if not set(marks.values()) <= {0.0, 1.0}:
        return ""
    return "".join("1" if mark else "0" for mark in marks.values())
