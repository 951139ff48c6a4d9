"""Evaluate models on tasks of lm-eval."""

import contextlib
import hashlib
import io
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
from lm_eval import evaluator
from lm_eval.api import metrics
from lm_eval.utils import handle_non_serializable

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress, Update
from regrow.evaluation.harness.language_model import Advance, RegrowModel
from regrow.evaluation.harness.responses import Responses
from regrow.evaluation.lost_text import LostText, lost_text
from regrow.evaluation.task_results import Evaluated, GroupScore, Metric, TaskScore
from regrow.evaluation.task_spec import TaskSpec
from regrow.evaluation.tasks.demonstrations import Demonstrations, whole_demonstrations
from regrow.evaluation.tasks.find import FoundTasks, find_tasks, quiet
from regrow.evaluation.tasks.forms import LETTERS
from regrow.evaluation.tasks.shots import check_shots, shots_of, without_shots
from regrow.models.loading import library_errors

_FEWSHOT_SEED = 1234
"""lm-eval's own, so that the same demonstrations are drawn."""
_ACCURACIES = ("acc", "acc_norm", "acc_token", "acc_mutual_info")
"""The metrics whose value for random guesses is known."""
_LARGE = 4 * 10**9
"""Bytes of weights that take more than seconds to hash."""
_RESAMPLES = 1000
"""Of the standard error of a metric that has no formula for it."""


def evaluate_tasks(
    models: Mapping[str, ModelDirectory], spec: TaskSpec, cache: Path, progress: Progress
) -> list[Evaluated]:
    """`evaluate_models` on the tasks that `spec` names.

    Raises UserError as `evaluate_models`, or if there is no such task, its questions cannot be
    read, or it has no such demonstrations.
    """
    progress.say(f"reading the questions of {', '.join(spec.tasks)}")
    found = find_tasks(spec.tasks, data=spec.data, mode=spec.mode, say=progress.say)
    check_shots(found, spec.shots)
    if bare := without_shots(found, spec.shots):
        progress.say(f"{', '.join(bare)}: asked without demonstrations, as the task says")
    return evaluate_models(models, found, spec, cache, progress)


def evaluate_models(
    models: Mapping[str, ModelDirectory],
    found: FoundTasks,
    spec: TaskSpec,
    cache: Path,
    progress: Progress,
) -> list[Evaluated]:
    """The scores of models on the same tasks.

    All models are opened and checked before the first one answers. Answers are appended to the
    cache as they are computed, so a call that was stopped goes on when it is repeated.

    Args:
        models: Model directories by the name that the user gave.
        found: The tasks.
        spec: How models are asked.
        cache: The directory where answers are kept.
        progress: Receives messages, and the state with the time that is left.

    Raises:
        UserError: a model cannot be loaded or cannot answer, or a task fails.
    """
    opened = {
        name: RegrowModel(directory, precision=spec.precision, prompt=spec.prompt)
        for name, directory in models.items()
    }
    sizes = [model.directory.layout.parameters() for model in opened.values()]
    results = []
    for number, (name, model) in enumerate(opened.items()):
        later = sum(sizes[number + 1 :]) / max(1, sizes[number])

        def tell(at: Advance, name: str = name, number: int = number, later: float = later) -> None:
            doing = f"{at.done:,} of {at.total:,} answers"
            # The time of a model grows with its parameters.
            left = at.seconds_left + later * (at.seconds + at.seconds_left)
            share = (number + at.share) / len(opened)
            progress.update(Update(name, doing, share, left))

        model.advance = tell
        results.append(_evaluate(name, model, found, spec, cache, progress))
        model.free()
    return results


def _evaluate(
    name: str,
    model: RegrowModel,
    found: FoundTasks,
    spec: TaskSpec,
    cache: Path,
    progress: Progress,
) -> Evaluated:
    _set_shots(found, spec)
    random.seed(0)
    np.random.seed(_FEWSHOT_SEED)
    if (size := model.directory.weight_bytes) > _LARGE:
        progress.say(f"{name}: hashing {size / 1e9:,.0f} GB of weights")
    directory = cache / model.identity[:32]
    with (
        Responses(directory) as model.responses,
        contextlib.ExitStack() as stack,
        quiet(),
        contextlib.redirect_stdout(io.StringIO()),  # lm-eval prints what it resamples
        library_errors(f"{name}: lm-eval cannot evaluate it"),
    ):
        shots = {
            task: stack.enter_context(whole_demonstrations(each, model.fits))
            for task, each in found.tasks.items()
        }
        stack.enter_context(_infinite_perplexities())
        raw = evaluator.evaluate(
            lm=model,
            task_dict={"tasks": found.tasks, "groups": found.groups},
            limit=spec.limit,
            bootstrap_iters=_RESAMPLES,
            log_samples=True,
        )
    model.responses = None
    if raw is None:
        raise UserError(f"{name}: evaluated by another process")
    scores = tuple(
        _score(model, task, each, raw, shots[task]) for task, each in found.tasks.items()
    )
    for score in scores:
        for note in notes_on(score):
            progress.say(f"{name}: {note}")
    source = model.directory
    raw["config"] = {
        "model": "regrow",
        "model_args": {"pretrained": str(source.path), "precision": model.precision},
        "limit": spec.limit,
        "fewshot_seed": _FEWSHOT_SEED,
    }
    raw["date"] = time.time()
    return Evaluated(
        name=name,
        directory=str(source.path),
        fingerprint=source.checkpoint.fingerprint,
        parameters=source.layout.parameters(),
        weight_bytes=source.weight_bytes,
        precision=model.precision,
        tasks=scores,
        groups=tuple(_group_scores(found.groups, scores)),
        computed=model.computed,
        cached=model.cached,
        results=raw,
    )


@contextlib.contextmanager
def _infinite_perplexities() -> Iterator[None]:
    """Lets perplexities of lm-eval be infinite that are larger than the largest float.

    With an error there, the scores of all tasks would be lost.
    """

    def exp(power: float) -> float:
        try:
            return math.exp(power)
        except OverflowError:
            return math.inf

    metrics.math = SimpleNamespace(**{**vars(math), "exp": exp})
    try:
        yield
    finally:
        metrics.math = math


def _set_shots(found: FoundTasks, spec: TaskSpec) -> None:
    """Set the number of demonstrations, and begin to draw them anew."""
    for name, number in shots_of(found, spec.shots).items():
        found.tasks[name].set_config(key="num_fewshot", value=number)
        found.tasks[name].set_fewshot_seed(seed=_FEWSHOT_SEED)


def notes_on(score: TaskScore) -> Iterator[str]:
    """What a reader of a score should know, one line each."""
    if score.fewer_shots:
        yield (
            f"{score.task}: {score.fewer_shots:,} of {score.questions:,} questions have fewer than "
            f"{score.shots} demonstrations ({score.dropped_shots:,} left out)"
        )
    if score.shortened:
        yield (
            f"{score.task}: {score.shortened:,} prompts are longer than the model reads; their "
            "beginning is left out"
        )
    if score.lost:
        yield f"{score.task}: the tokens do not spell {score.lost:.2%} of the text's bytes"


# Scores of a task


def _score(
    model: RegrowModel, name: str, task: Any, raw: Mapping[str, Any], shots: Demonstrations
) -> TaskScore:
    samples = raw["samples"][name]
    by_filter: dict[str, list[Any]] = {}
    for sample in samples:
        by_filter.setdefault(sample["filter"], []).append(sample)
    metrics = _metrics(raw["results"][name])
    has_options = task.OUTPUT_TYPE == "multiple_choice"
    first = next(iter(by_filter.values()))
    marks_by_metric: dict[str, list[float]] = {}
    chance, predicted = None, {}
    if has_options:
        right = [_right_options(task, sample) for sample in first]
        by_tokens = [_best(_per_token(model, sample)) for sample in first]
        hits = [float(best in gold) for best, gold in zip(by_tokens, right, strict=True)]
        marks_by_metric["acc_token"] = hits
        metrics["acc_token"] = _mean(hits)
        counts = [_options(sample) for sample in first]
        if not callable(task.config.process_results):  # else the task scores in a way of its own
            chance = fmean(len(gold) / count for gold, count in zip(right, counts, strict=True))
    main = _main_metric(metrics, model.encoding.has_openba_prompts and _by_likelihood(task))
    if main not in _ACCURACIES:
        chance = None
    if has_options:
        chosen = Counter(_chosen(model, sample, main) for sample in first)
        predicted = {
            _option_name(number): chosen[number] / len(first)
            for number in range(max(map(_options, first)))
        }
    metric, _, kind = main.partition(" (")
    marks = marks_by_metric.get(main) or [
        sample.get(metric) for sample in by_filter.get(kind.rstrip(")") or "none", first)
    ]
    hashes = [_question_key(sample) for sample in first]
    is_each = len(marks) == len(hashes) and all(isinstance(mark, int | float) for mark in marks)
    # The values of single questions of a perplexity are no perplexities.
    is_each = is_each and math.isclose(
        fmean(map(float, marks)), metrics[main].value, rel_tol=1e-6, abs_tol=1e-9
    )
    if is_each and metrics[main].error is None:
        metrics[main] = _mean([float(mark) for mark in marks])
    lost = _lost(model, first) if task.OUTPUT_TYPE == "loglikelihood_rolling" else None
    better = raw["higher_is_better"].get(name, {}).get(metric)
    return TaskScore(
        task=name,
        metric=main,
        metrics=metrics,
        higher_is_better=better is not False,
        questions=len(first),
        marks=dict(zip(hashes, map(float, marks), strict=True)) if is_each else {},
        chance=chance,
        predicted=predicted,
        shots=shots.wanted,
        fewer_shots=shots.fewer,
        dropped_shots=shots.dropped,
        shortened=model.shortened_of(task.instances),
        lost=None if lost is None else lost.bytes,
        unknown=None if lost is None else lost.unknown,
        content=_content(first),
    )


def _metrics(results: Mapping[str, Any]) -> dict[str, Metric]:
    """Metrics by name, with the name of their filter if it has one: `exact_match (strict)`."""
    found = {}
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = results.get(f"{metric}_stderr,{kind}")
        name = metric if kind == "none" else f"{metric} ({kind})"
        found[name] = Metric(float(value), error if isinstance(error, float) else None)
    return found


def _main_metric(metrics: Mapping[str, Metric], by_token: bool) -> str:
    if by_token and "acc_token" in metrics:
        return "acc_token"
    preferred = (name for name in ("acc_norm", "bits_per_byte", "acc") if name in metrics)
    return next(preferred, next(iter(metrics)))


def _mean(marks: Sequence[float]) -> Metric:
    error = float(np.std(marks, ddof=1) / len(marks) ** 0.5) if len(marks) > 1 else None
    return Metric(fmean(marks), error)


def _likelihoods(sample: Mapping[str, Any]) -> list[float]:
    """The log-likelihood of each option."""
    return [float(answers[0][0]) for answers in sample["resps"][: _options(sample)]]


def _options(sample: Mapping[str, Any]) -> int:
    """How many options a question has."""
    return sum(1 for arguments in sample["arguments"] if arguments[0] != "") or len(
        sample["arguments"]
    )


def _per_token(model: RegrowModel, sample: Mapping[str, Any]) -> list[float]:
    scores = [model.scores[arguments] for arguments in sample["arguments"][: _options(sample)]]
    return [score.loglikelihood / max(1, score.tokens) for score in scores]


def _best(values: Sequence[float]) -> int:
    return int(np.argmax(values))


def _chosen(model: RegrowModel, sample: Mapping[str, Any], metric: str) -> int:
    """The option that a metric takes."""
    if metric == "acc_token":
        return _best(_per_token(model, sample))
    values = _likelihoods(sample)
    if metric == "acc_norm":
        ends = [arguments[1] for arguments in sample["arguments"]]
        lengths = [max(1, len(end.removeprefix(" "))) for end in ends[: len(values)]]
        values = [value / length for value, length in zip(values, lengths, strict=True)]
    return _best(values)


def _right_options(task: Any, sample: Mapping[str, Any]) -> list[int]:
    gold = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    if isinstance(gold, str):
        choices = task.doc_to_choice(sample["doc"])
        return [choices.index(gold)] if gold in choices else []
    return [int(each) for each in (gold if isinstance(gold, list) else [gold])]


def _by_likelihood(task: Any) -> bool:
    """Whether the options of a task are texts, and not letters."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return False
    choices = task.doc_to_choice(next(iter(task.eval_docs)))
    return any(len(choice.strip()) > 1 for choice in choices)


def _option_name(number: int) -> str:
    return LETTERS[number] if number < len(LETTERS) else str(number + 1)


def _question_key(sample: Mapping[str, Any]) -> str:
    return f"{sample['doc_id']}:{sample['doc_hash'][:16]}"


def _content(samples: Iterable[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        asked = [sample["doc_hash"], sample["target_hash"], sample["arguments"]]
        digest.update(json.dumps(asked, default=handle_non_serializable).encode())
    return digest.hexdigest()


def _lost(model: RegrowModel, samples: Sequence[Mapping[str, Any]]) -> LostText:
    texts = [text for sample in samples for (text,) in sample["arguments"]]
    return lost_text(texts, model.encoding.texts(texts), model.tokenizer)


def _group_scores(groups: Mapping[str, Any], scores: Sequence[TaskScore]) -> Iterator[GroupScore]:
    """The scores of groups whose tasks have the same metric; others have no mean."""
    for name, group in groups.items():
        members = {task.task_name for task in group.get_all_tasks()}
        inside = [score for score in scores if score.task in members]
        if len({score.metric for score in inside}) == 1:
            yield _group_score(name, inside)


def _group_score(name: str, inside: Sequence[TaskScore]) -> GroupScore:
    count = sum(score.questions for score in inside)
    errors = [score.error for score in inside if score.error is not None]
    chances = [score.chance for score in inside if score.chance is not None]
    squares = sum((each.questions / count * (each.error or 0.0)) ** 2 for each in inside)
    return GroupScore(
        group=name,
        metric=inside[0].metric,
        value=sum(score.questions * score.value for score in inside) / count,
        error=squares**0.5 if len(errors) == len(inside) else None,
        chance=sum(each.questions * (each.chance or 0.0) for each in inside) / count
        if len(chances) == len(inside)
        else None,
        questions=count,
        tasks=tuple(score.task for score in inside),
    )
