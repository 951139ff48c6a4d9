"""The commands of regrow as Python functions. Each returns a typed result.

Common to all functions:

- `model` is a directory, a GGUF file, or a hub id (`owner/name`, or `owner/name@revision`). A GGUF
  file is converted once, into a cache.
- `progress` receives messages and progress (`regrow.common.progress.Progress`); by default nothing
  is reported.
- What is written waits until it is on the disk, so that a power loss damages nothing. Inside
  `with regrow.durable(False):` it does not wait.
- A mistake of the user raises `regrow.UserError`, whose text is one line.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.checkpoint.verify import VerifyResult
    from regrow.corpus.tokenisation import Tokenised
    from regrow.evaluation.comparison import Comparison
    from regrow.evaluation.task_results import Evaluated
    from regrow.pipeline.preview import Preview
    from regrow.pipeline.recipe import Recipe
    from regrow.pipeline.run import Result
    from regrow.pipeline.train_model import Trained
    from regrow.scoring.score_file import SavedScores
    from regrow.surgery.grow_vocabulary import Grown, MergeLimits
    from regrow.surgery.inspection import Inspection
    from regrow.surgery.plan import Plan
    from regrow.surgery.prune import Pruned
    from regrow.vocabulary.sizing import VocabularyPlan
    from regrow.vocabulary.token_counting import Counted
    from regrow.writing.text_writer import WrittenText

T = TypeVar("T")


def inspect(model: Path | str, *, progress: Progress = QUIET) -> "Inspection":
    """The axes and parameters of a model, and which sizes a cut can leave.

    Only the config and the headers of the weight files are read. A directory with a config alone is
    enough.

    Args:
        model: a directory, a GGUF file, or a hub id.
        progress: receives messages.

    Raises:
        UserError: the model cannot be found or read, or regrow does not know its architecture.
    """
    from regrow.surgery.inspection import inspect_model

    return inspect_model(_open(model, progress))


def plan(
    model: Path | str,
    *,
    text: Path | str | Sequence[Path | str] = (),
    page: Path | str | None = None,
    progress: Progress = QUIET,
    **how: Any,
) -> "Plan":
    """Propose pruning stages under a budget.

    The result holds the sizes after each stage, exact parameter counts, and a recipe as YAML text
    to edit. With a text, the cost of each axis is measured: the model is cut along one axis at a
    time, at a few sizes, refitted, and its loss is taken on text that was held back. Then the best
    predicted sizes are cut and measured, and the best of them is proposed. What was measured is
    kept in a cache, so a call that was stopped continues when it is repeated, and another budget
    needs only its candidates measured. Without a text, the costs are fixed.

    The options in `how` are those of `regrow.pipeline.plan_spec.PlanSpec`:

    - `params`: the most parameters of the result, as an integer or as a share (`"50%"`);
    - `bytes`: in its place, the most bytes of the weights, as an integer or as a share;
    - `tokens_per_second`: in its place, the least speed of greedy generation on this machine. It
      needs a text.
    - `calibration_tokens`: the number of tokens that cuts are chosen by and refitted on.
    - `candidates`: how many of the best predicted sizes are measured.
    - `seed`: decides which part of the text is used.

    Args:
        model: a directory, a GGUF file, or a hub id.
        text: text files, of which a part is held back to measure on.
        page: the HTML file to which a page with charts is written. It needs a text.
        progress: receives messages, and the state while cuts are measured.
        how: the budget, and how costs are measured; see above.

    Raises:
        UserError: an option is not valid, the model or a text cannot be read, or the budget cannot
            be met.
    """
    from regrow.common.validation_errors import validated
    from regrow.pipeline.plan_spec import PlanSpec
    from regrow.pipeline.proposal import propose
    from regrow.report.plan_page import write_plan_page

    spec = validated(PlanSpec, how)
    texts = [Path(each) for each in ([text] if isinstance(text, Path | str) else text)]
    if page is not None and not texts:
        raise UserError("the page shows measured costs; give a text", key="text")
    if page is not None and not Path(page).parent.is_dir():
        raise UserError(f"{Path(page).parent}: no such directory")
    found = propose(_open(model, progress), spec, str(model), text=texts, progress=progress)
    if page is not None:
        write_plan_page(found, Path(page))
    return found


def preview(recipe: Path | str, *, progress: Progress = QUIET) -> "Preview":
    """Compute what a recipe will do: sizes, parameters, training tokens and FLOPs of each stage.

    Neither weights nor texts are read. The recipe's model may be a directory with a config alone.

    Args:
        recipe: a YAML file.
        progress: receives messages.

    Raises:
        UserError: the recipe is not valid, or a cut cannot be made.
    """
    from regrow.pipeline.preview import preview_recipe
    from regrow.pipeline.recipe_file import load_recipe

    loaded = load_recipe(Path(recipe))
    return preview_recipe(loaded, _open(loaded.model, progress))


def prune(
    model: Path | str,
    out: Path | str,
    *,
    calibration: Path | str | None = None,
    seed: int = 0,
    max_shard_bytes: int = 5 * 10**9,
    dry_run: bool = False,
    progress: Progress = QUIET,
    **cut: Any,
) -> "Pruned":
    """Cut a model, without training, and write a plain Hugging Face directory.

    The options in `cut` are those of `regrow.surgery.cut_spec.CutSpec`:

    - `layers`, `hidden`, `ffn`, `heads`, `kv_heads`: sizes that remain, as an integer, or by stack
      (`{"encoder": 8, "decoder": 24}`).
    - `drop_layers`: layers to drop, by number from 0: `"12-15,20"`.
    - `vocab_size`: the number of tokens that remain, chosen by their counts in the text.
    - `vocab`: in place of `vocab_size`, a mapping with the keys of
      `regrow.vocabulary.vocabulary_spec.VocabularySpec`.
    - `by`: the name of a score, or a function (layout, axis name, open checkpoint, calibration) ->
      scores of shape [size] or [layers, size]; the indices with the highest scores are kept
      (`regrow.scoring.registry.ScoreFunction`). By default, layers are chosen by influence and all
      else by activation.
    - `scores`: in place of `by`, a file that `score` wrote.
    - `refit`: whether the matrices that write to the residual stream are solved for again after the
      cut, so that the stream changes less. By default, if there is a calibration text and the
      architecture is pre-norm.
    - `calibration_tokens`: the number of tokens that scores are computed on, and matrices refitted.
    - `cut`: a cut file, in place of all other options.

    Args:
        model: a directory, a GGUF file, or a hub id.
        out: a new or empty directory.
        calibration: the text file for scores, refits and token counts. Scores from weights or
            random numbers need none.
        seed: decides random scores.
        max_shard_bytes: the largest size of a weight file, in bytes.
        dry_run: choose and check the cut, and write nothing.
        progress: receives messages, and the weight bytes written.
        cut: what to cut, see above.

    Returns:
        The cut, and parameters, sizes and bytes before and after it.

    Raises:
        UserError: an option is not valid, the model cannot be cut like this, `out` is not empty, or
            the disk is too full. It is raised before anything is written.
    """
    from regrow.common.disk import check_free_space
    from regrow.common.validation_errors import validated
    from regrow.surgery.carve import check_output
    from regrow.surgery.cut_spec import CutSpec
    from regrow.surgery.prune import plan_cut, prune_checkpoint

    spec = validated(CutSpec, cut)
    documents = _calibration_documents(calibration)
    source = _open(model, progress)
    options: dict[str, Any] = {
        "documents": documents, "seed": seed, "max_shard_bytes": max_shard_bytes,
        "progress": progress,
    }  # fmt: skip
    if dry_run:
        check_output(Path(out), source.path)
        planned = plan_cut(source, spec, **options)
        check_free_space(Path(out), planned.disk_bytes)
        return planned.result(Path(out))
    return prune_checkpoint(source, Path(out), spec, **options)


def score(
    model: Path | str,
    out: Path | str,
    *,
    calibration: Path | str | None = None,
    seed: int = 0,
    progress: Progress = QUIET,
    **how: Any,
) -> "SavedScores":
    """Save scores in a file, from which `prune(..., scores=out)` cuts without text.

    The options in `how` are those of `regrow.scoring.score_file.ScoreSpec`: `by`, the name of a
    score; `axes`, the names of axes as `inspect` gives them; `calibration_tokens`, the number of
    tokens that scores are computed on. Without `by`, each axis has its default; without `axes`, all
    are scored that can be.

    Args:
        model: a directory, a GGUF file, or a hub id.
        out: a new file.
        calibration: the text file. Scores from weights or random numbers need none.
        seed: decides random scores, and which rows of the text are read.
        progress: receives messages.
        how: what is scored, and how; see above.

    Raises:
        UserError: an option is not valid, `out` exists, or the axes cannot be scored like this.
    """
    from regrow.common.validation_errors import validated
    from regrow.scoring.score_file import ScoreSpec, compute_scores

    spec = validated(ScoreSpec, how)
    path = Path(out)
    if path.exists():
        raise UserError(f"{path}: exists; choose another file")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such directory")
    saved = compute_scores(
        _open(model, progress), spec, _calibration_documents(calibration), seed=seed,
        notify=progress.say,
    )  # fmt: skip
    saved.save(path)
    return saved


def run(
    recipe: Path | str,
    out: Path | str | None = None,
    *,
    compare: Collection[str] = (),
    redo: bool = False,
    progress: Progress = QUIET,
) -> "Result":
    """Run all stages of a recipe: score, cut, train and measure, then write a report.

    A run that was stopped continues where it stood when it is called again. Under torchrun, call it
    in every process: they train together, and the first process does the rest.

    Args:
        recipe: a YAML file.
        out: the directory of the run; None takes `runs/NAME`, with the name in the recipe.
        compare: what to train as well, on the same number of tokens: `"control"`, the original
            model; `"at-once"`, the original with all cuts made in one step.
        redo: if the recipe changed since the run began, do again the steps that this invalidates.
            Without it, a changed recipe is an error.
        progress: receives messages and the state of the run.

    Returns:
        The directory of the run, of the final model, and the path of the report.

    Raises:
        UserError: the recipe is not valid, its model or texts cannot be read, memory or disk are
            too small, or the recipe changed. What can be checked is checked before any training.
    """

    def work() -> "Result":
        from regrow.pipeline.recipe_file import load_recipe

        path = Path(recipe)
        loaded = load_recipe(path)
        from regrow.pipeline.plan import RunOptions
        from regrow.pipeline.run import run as run_recipe

        options = RunOptions(path.read_text(encoding="utf-8"), compare, redo)
        directory = Path("runs") / loaded.name if out is None else Path(out)
        return run_recipe(loaded, directory, options, progress)

    return _in_first_process(work)


def train(
    recipe: "Path | str | Recipe",
    out: Path | str,
    *,
    stage: str | None = None,
    from_scratch: bool = False,
    redo: bool = False,
    progress: Progress = QUIET,
) -> "Trained":
    """Train the model of a recipe with the settings of one stage, without a cut.

    A training that was stopped continues from its last checkpoint when it is called again. Under
    torchrun, call it in every process.

    Args:
        recipe: a YAML file, or a `Recipe`, such as
            `regrow.pipeline.train_model.training_recipe` makes.
        out: the directory of the training, with its ledger and report.
        stage: the name of the stage; needed if the recipe has several.
        from_scratch: start from random weights. The model then needs only a config and a
            tokenizer.
        redo: if settings changed since the training began, start it again. Without it, changed
            settings are an error.
        progress: receives messages and the state of the training.

    Returns:
        The directory of the model, the path of the report, the loss curves, tokens and seconds.

    Raises:
        UserError: the recipe is not valid, the stage does not only train, or `out` holds another
            training.
    """

    def work() -> "Trained":
        from regrow.pipeline.plan import RunOptions
        from regrow.pipeline.recipe_file import load_recipe
        from regrow.pipeline.train_model import train_model

        loaded, text = recipe, ""
        if isinstance(loaded, Path | str):
            text = Path(loaded).read_text(encoding="utf-8") if Path(loaded).is_file() else ""
            loaded = load_recipe(Path(loaded))
        options = RunOptions(text, redo=redo, from_scratch=from_scratch)
        return train_model(loaded, Path(out), stage=stage, options=options, progress=progress)

    return _in_first_process(work)


def verify(directory: Path | str, *, trust_remote_code: bool = False) -> "VerifyResult":
    """Load a model directory in a new process, without regrow, and check it.

    The checks go from the config to greedy generation. The process is offline.

    Args:
        directory: the model directory.
        trust_remote_code: run modelling code of the directory even if it is not regrow's own.

    Returns:
        The checks; `ok` is true if all passed.

    Raises:
        UserError: there is no such directory, or the process died, for example from lack of memory.
    """
    from regrow.checkpoint.verify import verify as verify_directory

    return verify_directory(Path(directory), trust_remote_code=trust_remote_code)


def evaluate(
    models: Path | str | Sequence[Path | str],
    tasks: str | Sequence[str],
    *,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress = QUIET,
    **how: Any,
) -> "list[Evaluated]":
    """Evaluate models on tasks of lm-eval: accuracies with their standard errors, and more.

    Each answer of a model is kept in a cache, under the hash of its weights and of the question. So
    a call that was stopped goes on when it is repeated, and nothing is computed twice.

    The options in `how` are those of `regrow.evaluation.task_spec.TaskSpec`: `data` (a directory
    with the questions), `mode` (`letter` or `likelihood`), `shots`, `limit`, `precision`, `prompt`.

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
    from regrow.common.validation_errors import validated
    from regrow.evaluation.require import require_lm_eval
    from regrow.evaluation.task_spec import TaskSpec

    named = [tasks] if isinstance(tasks, str) else list(tasks)
    spec = validated(TaskSpec, {"tasks": named, **how})
    require_lm_eval()
    given = [str(each) for each in ([models] if isinstance(models, Path | str) else models)]
    if not given:
        raise UserError("no model is named")
    directories = {name: _open(name, progress) for name in given}
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
    tasks: str | Sequence[str],
    *,
    speed: bool = False,
    page: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress = QUIET,
    **how: Any,
) -> "Comparison":
    """Compare models with the first of them, on the same questions.

    What `evaluate` found is read from the cache, and what is missing is evaluated. Each difference
    has a confidence interval (paired bootstrap) and a p-value (McNemar's exact test).

    Args:
        models: At least two models, each a directory, a GGUF file, or a hub id.
        tasks: As for `evaluate`.
        speed: Also measure the speed of generation, of all models in turns.
        page: The HTML file to which a page with a chart is written.
        cache: As for `evaluate`.
        progress: Receives messages, and the state with the time that is left.
        how: As for `evaluate`.

    Raises:
        UserError: as `evaluate`, or there is only one model.
    """
    from regrow.evaluation.comparison import compare_scores

    if len({str(model) for model in models}) < 2:
        raise UserError("a comparison needs two different models; give the original first")
    if page is not None and not Path(page).parent.is_dir():
        raise UserError(f"{Path(page).parent}: no such directory")
    found = evaluate(models, tasks, cache=cache, progress=progress, **how)
    speeds = None
    if speed:
        from regrow.evaluation.generation import speeds_in_turns

        progress.say("measuring the speed of generation, of all models in turns")
        speeds = speeds_in_turns([_open(each.directory, progress) for each in found])
    compared = compare_scores(found, speeds)
    if page is not None:
        from regrow.report.comparison_page import write_comparison_page

        write_comparison_page(compared, Path(page))
    return compared


def write_report(directory: Path | str) -> Path:
    """Write the report of a run again, from its ledger.

    Args:
        directory: the directory of the run.

    Returns:
        The path of the page, `report.html` in that directory.

    Raises:
        UserError: the directory holds no run.
    """
    from regrow.pipeline.summary import summarise
    from regrow.report.page import write_page

    page = Path(directory) / "report.html"
    write_page(summarise(page.parent), page)
    return page


def tokenise(
    model: Path | str,
    out: Path | str,
    text: Sequence[Path | str],
    *,
    workers: int | None = None,
    eos: bool = True,
    special_tokens: bool = False,
    progress: Progress = QUIET,
) -> "Tokenised":
    """Tokenise text files once and write a token store, which recipes can train on.

    A call that was stopped continues when it is repeated with the same arguments.

    Args:
        model: the model whose tokenizer is used.
        out: a new directory.
        text: text files: .txt or .jsonl, also .gz or .zst; .parquet.
        workers: the number of processes; None takes one for each core.
        eos: end each document with the eos token.
        special_tokens: whether the names of special tokens in the text stand for the tokens.
        progress: receives the bytes read.

    Raises:
        UserError: a text or the tokenizer cannot be read, or `out` holds something else.
    """
    from regrow.corpus.tokenisation import tokenise_files

    return tokenise_files(
        _open(model, progress).path, Path(out), [Path(path) for path in text],
        workers=workers or os.cpu_count() or 1, eos=eos,
        special_tokens=special_tokens, progress=progress.advance,
    )  # fmt: skip


def write_corpus(
    model: Path | str,
    out: Path | str,
    tokens: int,
    *,
    prompts: Path | str | None = None,
    progress: Progress = QUIET,
    **settings: Any,
) -> "WrittenText":
    """Let a model write text, on which it or its smaller versions can be trained.

    A chat model writes questions and answers, and other decoders write documents. A call that was
    stopped continues when it is repeated with the same arguments.

    Further settings are those of `regrow.writing.text_writer.WritingSettings`: `seed`,
    `temperature`, `batch_size`.

    Args:
        model: a decoder with a tokenizer.
        out: a new file, `.jsonl`.
        tokens: tokens of text, at least so many.
        prompts: a text file with questions, or with beginnings of documents.
        progress: receives the tokens written.
        settings: see above.

    Raises:
        UserError: the model cannot write, a setting is not valid, or `out` exists or was begun with
            other settings.
    """
    from regrow.writing.text_writer import WritingSettings, write_text

    given = WritingSettings(tokens, None if prompts is None else Path(prompts), **settings)
    return write_text(_open(model, progress), Path(out), given, progress=progress.advance)


def count_vocabulary(
    model: Path | str,
    out: Path | str,
    corpus: Sequence[Path | str] = (),
    *,
    merge: Sequence[Path | str] = (),
    workers: int | None = None,
    progress: Progress = QUIET,
) -> "Counted":
    """Count how often each token occurs in text files, by source and script.

    A call that was stopped continues when it is repeated with the same arguments.

    Args:
        model: the model whose tokenizer is used.
        out: a new file for the counts.
        corpus: text files or directories. `NAME=PATH` gives the source a name, such as its
            language.
        merge: files of earlier counts to add.
        workers: the number of processes; None takes one for each core.
        progress: receives the bytes read.

    Raises:
        UserError: a text, a file of counts or the tokenizer cannot be read, or `out` cannot be
            written.
    """
    from regrow.corpus.named_files import named_files
    from regrow.vocabulary.token_counting import count_files

    files = named_files([str(path) for path in corpus], "corpus")
    return count_files(
        _open(model, progress).path, Path(out), files, more=[Path(path) for path in merge],
        workers=workers or os.cpu_count() or 1, progress=progress.advance,
    )  # fmt: skip


def plan_vocabulary(
    model: Path | str,
    counts: Path | str,
    *,
    text: Sequence[Path | str] | None = None,
    out: Path | str | None = None,
    page: Path | str | None = None,
    progress: Progress = QUIET,
    **choice: Any,
) -> "VocabularyPlan":
    """Compute what each vocabulary size covers of a corpus and saves, and suggest a size.

    Args:
        model: a directory, a GGUF file, or a hub id.
        counts: the file that `count_vocabulary` wrote.
        text: the files on which tokens per character are measured, named as in `count_vocabulary`;
            None takes a sample of the counted files.
        out: the file to which the plan is written, for `prune(..., vocab={"plan": out})`.
        page: the HTML file to which a page with charts is written.
        progress: receives messages.
        choice: keys of `regrow.vocabulary.vocabulary_spec.VocabularySpec`: `size`, `coverage`,
            `only`, `minimum`, `keep`, `drop`, `characters`.

    Returns:
        The sizes with their coverage and parameters, and the tokens that are kept at the size that
        was asked for or, without one, at the suggested size.

    Raises:
        UserError: an option is not valid, the counts belong to another tokenizer, or the choice
            cannot be met.
    """
    from regrow.common.validation_errors import validated
    from regrow.corpus.named_files import named_files
    from regrow.report.vocabulary_page import write_vocabulary_page
    from regrow.vocabulary.plan_file import save_plan
    from regrow.vocabulary.sizing import plan_vocabulary
    from regrow.vocabulary.vocabulary_spec import VocabularySpec

    spec = validated(VocabularySpec, {**choice, "counts": Path(counts)})
    for path in (out, page):
        if path is not None and not Path(path).parent.is_dir():
            raise UserError(f"{Path(path).parent}: no such directory")
    files = None if text is None else named_files([str(path) for path in text], "text")
    plan = plan_vocabulary(
        _open(model, progress),
        Path(counts),
        spec,
        files,
        notify=progress.say,
    )
    if out is not None:
        save_plan(plan, Path(out))
    if page is not None:
        write_vocabulary_page(plan, Path(page))
    return plan


def grow_vocabulary(
    model: Path | str,
    out: Path | str,
    corpus: Sequence[Path | str],
    limits: "MergeLimits",
    *,
    text: Sequence[Path | str] | None = None,
    dry_run: bool = False,
    progress: Progress = QUIET,
) -> "Grown":
    """Add tokens for frequent words of a domain, and write the larger model.

    Each new token is merged from two tokens. Its embedding and head rows are the mean of the rows
    of the original tokens that it stands for.

    Args:
        model: a directory, a GGUF file, or a hub id. Its tokenizer must be BPE.
        out: a new or empty directory.
        corpus: text of the domain, files or directories, named as in `count_vocabulary`.
        limits: how many tokens are added at most, and how often each occurs in the corpus
            (`regrow.surgery.grow_vocabulary.MergeLimits`).
        text: the files on which tokens per character are measured; None takes a sample of the
            corpus.
        dry_run: choose and measure, and write nothing.
        progress: receives messages.

    Raises:
        UserError: the tokenizer is not BPE, the corpus is empty, or no pair of tokens is frequent
            enough.
    """
    from regrow.corpus.named_files import named_files
    from regrow.surgery.grow_vocabulary import grow_vocabulary

    files = named_files([str(path) for path in corpus], "corpus")
    texts = None if text is None else named_files([str(path) for path in text], "text")
    return grow_vocabulary(
        _open(model, progress), Path(out), files, limits, texts=texts, dry_run=dry_run,
        notify=progress.say,
    )  # fmt: skip


def generate(
    model: Path | str, prompt: str, *, max_new_tokens: int = 128, progress: Progress = QUIET
) -> str:
    """A model's greedy continuation of a prompt, or its answer if it has a chat template.

    Args:
        model: a directory, a GGUF file, or a hub id.
        prompt: the prompt; it is not part of the result.
        max_new_tokens: the largest number of tokens to generate.
        progress: receives messages.

    Raises:
        UserError: the prompt is empty, or the model or its tokenizer cannot be loaded.
    """
    from regrow.evaluation.generation import generate_text

    return generate_text(_open(model, progress), prompt, max_new_tokens)


def _open(model: Path | str, progress: Progress) -> "ModelDirectory":
    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.checkpoint.resolve import resolve_model

    return ModelDirectory(resolve_model(str(model), None, progress.say))


def _calibration_documents(path: Path | str | None) -> Callable[[], Iterator[str]] | None:
    """Opens a calibration text; None without one. Raises UserError if it cannot be read."""
    from regrow.corpus.text import read_documents

    if path is None:
        return None
    text = Path(path)
    try:
        next(iter(read_documents(text)))
    except UserError as error:
        raise UserError(str(error), key="calibration") from None
    return lambda: read_documents(text)


def _in_first_process(work: "Callable[[], T]") -> "T":
    """Do `work` in the first process; under torchrun, the others do the training it starts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return work()
    from regrow.training.distributed.processes import join_processes

    return join_processes().lead(work)
