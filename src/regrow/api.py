"""What the command line does, from Python. Each function returns a typed result.

All raise `regrow.UserError`, with one line, at what a user can cause.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress

T = TypeVar("T")

if TYPE_CHECKING:
    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.checkpoint.verify import VerifyResult
    from regrow.corpus.tokenisation import Tokenised
    from regrow.pipeline.preview import Preview
    from regrow.pipeline.proposal import Plan
    from regrow.pipeline.recipe import Recipe
    from regrow.pipeline.run import Result
    from regrow.pipeline.train_model import Trained
    from regrow.surgery.grow_vocabulary import Grown
    from regrow.surgery.inspection import Inspection
    from regrow.surgery.prune import Pruned
    from regrow.vocabulary.sizing import VocabularyPlan
    from regrow.vocabulary.token_counting import Counted
    from regrow.vocabulary.vocabulary_spec import VocabularySpec


def inspect(model: Path | str, *, progress: Progress = QUIET) -> "Inspection":
    """The axes and parameters of a model (a directory, a GGUF file or a hub id)."""
    from regrow.surgery.inspection import inspect_model

    return inspect_model(_open(model, progress))


def plan(
    model: Path | str,
    *,
    params: int | None = None,
    keep: float | None = None,
    progress: Progress = QUIET,
) -> "Plan":
    """Stages that bring a model to `params` parameters, or to the share `keep` of what it has."""
    from regrow.pipeline.proposal import propose

    if (params is None) == (keep is None):
        raise UserError("plan: give params or keep, one of the two")
    if keep is not None and not 0 < keep < 1:
        raise UserError(
            "a share between 0 and 1 is wanted, such as 0.5", key="keep", value=f"{keep:g}"
        )
    opened = _open(model, progress)
    if params is None:
        assert keep is not None
        params = int(opened.layout.parameters() * keep)
    return propose(opened, params, str(model))


def preview(recipe: Path | str, *, progress: Progress = QUIET) -> "Preview":
    """What a recipe will do, stage by stage: sizes, parameters, tokens and training FLOPs.

    Neither weights nor texts are read; the recipe's model may be a directory with a config alone.
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
    """Cut a model and write the result to `out`, a plain Hugging Face directory.

    `cut`: the keys of `regrow.surgery.cut_spec.CutSpec` (layers, hidden, ffn, heads, vocab_size,
    vocab, by, ...); `vocab` as the keys of `regrow.vocabulary.vocabulary_spec.VocabularySpec`.
    `calibration`: the text that scores and token counts come from. `by`: the name of a score, or a
    function of your own: (layout, name of the axis, open checkpoint, calibration) -> scores, [size]
    or [layers, size], of which the highest are kept (`regrow.scoring.registry.ScoreFunction`).
    """
    from pydantic import ValidationError

    from regrow.common.disk import check_free_space
    from regrow.common.validation_errors import describe, dotted, first_error
    from regrow.corpus.text import read_documents
    from regrow.surgery.carve import check_output
    from regrow.surgery.cut_spec import CutSpec
    from regrow.surgery.prune import plan_cut, prune_checkpoint

    if isinstance(vocab := cut.get("vocab"), Mapping):
        # A relative path is taken from here, and may lead anywhere.
        cut = {**cut, "vocab": {name: _absolute(value) for name, value in vocab.items()}}
    try:
        spec = CutSpec(**cut)
    except ValidationError as error:
        place, wrong = first_error(error, cut)
        raise UserError(describe(wrong), key=dotted(place[:2]) or None) from None
    documents: Callable[[], Iterator[str]] | None = None
    if calibration is not None:
        text = Path(calibration)
        try:
            next(iter(read_documents(text)))
        except UserError as error:
            raise UserError(str(error), key="calibration") from None

        def documents() -> Iterator[str]:
            return read_documents(text)

    source = _open(model, progress)
    options: dict[str, Any] = {
        "documents": documents, "seed": seed, "max_shard_bytes": max_shard_bytes,
        "progress": progress,
    }  # fmt: skip
    if dry_run:
        check_output(Path(out), source.path)
        planned = plan_cut(source, spec, **options)
        check_free_space(Path(out), planned.carving.nbytes)
        return planned.result(Path(out))
    return prune_checkpoint(source, Path(out), spec, **options)


def _open(model: Path | str, progress: Progress) -> "ModelDirectory":
    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.checkpoint.resolve import resolve_model

    return ModelDirectory(resolve_model(str(model), None, progress.say))


def _absolute(value: Any) -> Any:
    return value.absolute() if isinstance(value, Path) else value


def run(
    recipe: Path | str,
    out: Path | str | None = None,
    *,
    compare: Collection[str] = (),
    redo: bool = False,
    progress: Progress = QUIET,
) -> "Result":
    """Run all stages of a recipe in the directory `out`; see `regrow.pipeline.run.run`.

    `out`: None for one in ``runs``, as the recipe is named. Processes that torchrun started call it
    alike: the first does what is for one, and all train together.
    """

    def work() -> "Result":
        from regrow.pipeline.recipe_file import load_recipe

        path = Path(recipe)
        loaded = load_recipe(path)
        from regrow.pipeline.plan import RunOptions
        from regrow.pipeline.run import run as run_recipe

        options = RunOptions(path.read_text(encoding="utf-8"), compare, redo)
        place = Path("runs") / loaded.name if out is None else Path(out)
        return run_recipe(loaded, place, options, progress)

    return _lead(work)


def _lead(work: "Callable[[], T]") -> "T":
    """Do what is for one process; under torchrun the others train with the first."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return work()
    from regrow.training.distributed.processes import join_processes

    return join_processes().lead(work)


def train(
    recipe: "Path | str | Recipe",
    out: Path | str,
    *,
    stage: str | None = None,
    from_scratch: bool = False,
    redo: bool = False,
    progress: Progress = QUIET,
) -> "Trained":
    """Train the model of a recipe as one of its stages says.

    See `regrow.pipeline.train_model.train_model`. Processes that torchrun started call it alike.

    `recipe`: also one of `regrow.pipeline.train_model.training_recipe`. `from_scratch`: begin with
    random weights, of which the recipe's model may then have none.
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

    return _lead(work)


def verify(directory: Path | str, *, trust_remote_code: bool = False) -> "VerifyResult":
    """Reload a model directory in a process of its own, without regrow, and check it.

    `trust_remote_code`: run code of the directory that is not regrow's own.
    """
    from regrow.checkpoint.verify import verify as verify_directory

    return verify_directory(Path(directory), trust_remote_code=trust_remote_code)


def write_report(directory: Path | str) -> Path:
    """Write the report of a run again, from its ledger; the path of the page."""
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
    progress: Progress = QUIET,
) -> "Tokenised":
    """Write text files as a token store; see `regrow.corpus.tokenisation.tokenise_files`.

    `workers`: None takes one for each core.
    """
    from regrow.corpus.tokenisation import tokenise_files

    return tokenise_files(
        _open(model, progress).path, Path(out), [Path(path) for path in text],
        workers=workers or os.cpu_count() or 1, eos=eos, progress=progress.advance,
    )  # fmt: skip


def count_vocabulary(
    model: Path | str,
    out: Path | str,
    corpus: Sequence[Path | str] = (),
    *,
    merge: Sequence[Path | str] = (),
    workers: int | None = None,
    progress: Progress = QUIET,
) -> "Counted":
    """Count the tokens of text files; see `regrow.vocabulary.token_counting.count_files`.

    `corpus`: files or directories, each perhaps as ``NAME=PATH``, where NAME is a language or
    source that is counted apart. `merge`: files of counts that are added. `workers`: None takes one
    for each core.
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
    """Plan a vocabulary for text that was counted; see `regrow.vocabulary.sizing`.

    `choice`: the keys of `regrow.vocabulary.vocabulary_spec.VocabularySpec` (size, coverage, only,
    minimum, keep, drop, characters). `text`: what tokens per character are measured on; None takes
    some of what was counted. `out`: where the plan is written, for `prune`. `page`: where the page
    is.
    """
    from regrow.corpus.named_files import named_files
    from regrow.report.vocabulary_page import write_vocabulary_page
    from regrow.vocabulary.plan_file import save_plan
    from regrow.vocabulary.sizing import plan_vocabulary

    spec = _vocabulary_spec({**choice, "counts": Path(counts)})
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
    tokens: int,
    *,
    least: int = 20,
    text: Sequence[Path | str] | None = None,
    dry_run: bool = False,
    progress: Progress = QUIET,
) -> "Grown":
    """Write a model with more tokens; see `regrow.surgery.grow_vocabulary.grow_vocabulary`.

    `corpus`: as for `count_vocabulary`. `tokens`: at most so many. `least`: times that each occurs.
    `text`: what tokens per character are measured on, in place of some of the corpus.
    """
    from regrow.corpus.named_files import named_files
    from regrow.surgery.grow_vocabulary import MergeLimits, grow_vocabulary

    files = named_files([str(path) for path in corpus], "corpus")
    texts = None if text is None else named_files([str(path) for path in text], "text")
    return grow_vocabulary(
        _open(model, progress), Path(out), files, MergeLimits(tokens, least), texts=texts,
        dry_run=dry_run, notify=progress.say,
    )  # fmt: skip


def _vocabulary_spec(values: dict[str, Any]) -> "VocabularySpec":
    from pydantic import ValidationError

    from regrow.common.validation_errors import describe, dotted, first_error
    from regrow.vocabulary.vocabulary_spec import VocabularySpec

    try:
        return VocabularySpec(**values)
    except ValidationError as error:
        place, wrong = first_error(error, values)
        raise UserError(describe(wrong), key=dotted(place[:1]) or None) from None


def generate(
    model: Path | str, prompt: str, *, max_new_tokens: int = 128, progress: Progress = QUIET
) -> str:
    """What a model writes after a prompt, greedily."""
    from regrow.evaluation.generation import generate_text

    return generate_text(_open(model, progress), prompt, max_new_tokens)
