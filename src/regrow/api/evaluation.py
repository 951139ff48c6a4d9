"""Evaluate models on tasks, and compare them."""

from __future__ import annotations  # so that help() shows them as they are written

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.api.arguments import Paths, names, open_model, options_of
from regrow.common.errors import UserError
from regrow.common.outputs import check_page
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Comparison
    from regrow.evaluation.task_results import Evaluated


def evaluate(
    models: Paths,
    tasks: str | Sequence[str],
    *,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress = QUIET,
    **how: Any,
) -> list[Evaluated]:
    """Evaluate models on tasks of lm-eval: accuracies with their standard errors, and more.

    Each answer of a model is kept in a cache, under the hash of its weights and of the question. So
    a call that was stopped goes on when it is repeated, and nothing is computed twice.

    The options in `how` are those of `regrow.evaluation.task_spec.TaskSpec`: `data` (a directory
    with the questions), `mode` (`letter` or `likelihood`), `shots` (a number, or a mapping from the
    names of tasks and groups), `limit`, `precision`, `prompt`.

    Args:
        models: One or several models, each a directory, a GGUF file, or a hub id.
        tasks: Names of tasks, groups and tags of lm-eval, patterns, and YAML files of tasks.
        out: A directory; for each model, the results and all answers are written to it in the
            format of lm-eval.
        cache: The directory for the answers; None takes `$XDG_CACHE_HOME/regrow/evaluation`.
        progress: Receives messages, and the state with the time that is left.
        how: How models are asked; see above.

    Returns:
        The scores of each model, in order.

    Raises:
        UserError: an option is not valid, lm-eval is not installed, there is no such task, its
            questions cannot be read, or a model cannot answer. It is raised before any model
            answers, except for what a task itself does wrong.
    """
    from regrow.common.files import cache_directory
    from regrow.evaluation.require import require_lm_eval
    from regrow.evaluation.task_spec import TaskSpec

    spec = options_of("evaluate", TaskSpec, {"tasks": names(tasks), **how})
    require_lm_eval()
    given = [models] if isinstance(models, Path | str) else models
    if not given:
        raise UserError("no model is named")
    directories = {str(model): open_model(model, progress) for model in given}
    from regrow.evaluation.lm_eval_format import check_results_directory, write_results
    from regrow.evaluation.task_evaluation import evaluate_tasks

    if out is not None:
        check_results_directory(Path(out))
    kept = Path(cache) if cache is not None else cache_directory() / "evaluation"
    found = evaluate_tasks(directories, spec, kept, progress)
    if out is not None:
        write_results(found, Path(out))
    return found


def compare(
    models: Sequence[Path | str],
    tasks: str | Sequence[str] | None = None,
    *,
    speed: bool = False,
    page: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress = QUIET,
    **how: Any,
) -> Comparison:
    """Compare models with the first of them, on the same questions.

    What `evaluate` found is read from the cache, and what is missing is evaluated. Each difference
    has a confidence interval (paired bootstrap) and a p-value (McNemar's exact test).

    Args:
        models: At least two models, each a directory, a GGUF file, or a hub id.
        tasks: As for `evaluate`. None, with `speed`, compares sizes and generation alone, and does
            not need lm-eval.
        speed: Also measure generation, of all models in turns: tokens per second, time to the first
            token, and memory. On a GPU if there is one, else in float32 on the CPU.
        page: The HTML file to which a page with charts is written.
        cache: As for `evaluate`.
        progress: Receives messages, and the state with the time that is left.
        how: As for `evaluate`.

    Raises:
        UserError: as `evaluate`, there is only one model, or neither tasks nor `speed` are given.
    """
    from regrow.evaluation.comparison import compare_scores

    if tasks is None and not speed:
        raise UserError("name tasks, or give `speed` to compare sizes and speed alone", key="tasks")
    models = [models] if isinstance(models, Path | str) else [*models]
    if len({str(model) for model in models}) < 2:
        raise UserError("a comparison needs two different models; give the original first")
    for model in models if page is not None else ():
        check_page(Path(page or ""), model)
    if tasks is None:
        found = _not_asked(models, how, progress)
    else:
        found = evaluate(models, tasks, cache=cache, progress=progress, **how)
    speeds = None
    if speed:
        from regrow.evaluation.speed import NEW_TOKENS, ROUNDS, measure_speeds

        progress.say("measuring the speed of generation, of all models in turns")
        speeds = measure_speeds(
            [open_model(each.directory, progress) for each in found],
            new_tokens=NEW_TOKENS,
            rounds=ROUNDS,
            precision=how.get("precision", "auto"),
        )
    compared = compare_scores(found, speeds)
    if page is not None:
        from regrow.report.comparison_page import write_comparison_page

        write_comparison_page(compared, Path(page))
    return compared


def _not_asked(
    models: Sequence[Path | str], how: Mapping[str, Any], progress: Progress
) -> list[Evaluated]:
    """The models without scores. Raises UserError if an option is given that only tasks have."""
    from regrow.evaluation.task_results import Evaluated
    from regrow.evaluation.task_spec import TaskSpec

    spec = options_of("compare", TaskSpec, {"tasks": ("none",), **how})
    for name, field in TaskSpec.model_fields.items():
        if name not in ("tasks", "precision") and getattr(spec, name) != field.default:
            raise UserError("is for tasks; give `tasks` too", key=name)
    opened = {str(model): open_model(model, progress) for model in models}
    return [
        Evaluated(
            name=name,
            directory=str(directory.path),
            fingerprint=directory.checkpoint.fingerprint,
            parameters=directory.layout.parameters(),
            weight_bytes=directory.weight_bytes,
            precision="",
            tasks=(),
            groups=(),
            computed=0,
            cached=0,
            results={},
        )
        for name, directory in opened.items()
    ]
