"""Plan a cut, make it, and save the scores that it is chosen by."""

from __future__ import annotations  # so that help() shows them as they are written

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from regrow.api.arguments import (
    Paths,
    calibration_documents,
    flag,
    nbytes,
    number,
    open_model,
    options_of,
    paths,
)
from regrow.api.options import PlanOptions, PruneOptions, ScoreOptions
from regrow.common.errors import UserError
from regrow.common.outputs import check_new_directory, check_new_file, check_page
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.scoring.score_file import SavedScores
    from regrow.surgery.plan import Plan
    from regrow.surgery.prepared_cut import Pruned


def plan(
    model: Path | str,
    *,
    text: Paths = (),
    page: Path | str | None = None,
    progress: Progress = QUIET,
    **how: Unpack[PlanOptions],
) -> Plan:
    """Propose pruning stages under a budget.

    The result holds the sizes after each stage, exact parameter counts, a recipe as YAML text to
    edit, and the time that its trainings take on this machine. With a text, the cost of each axis
    is measured: the model is cut along one axis at a time, at a few sizes, refitted, and its loss
    is taken on text that was held back. Then the best predicted sizes are cut and measured, and the
    best of them is proposed. What was measured is kept in a cache, so a call that was stopped
    continues when it is repeated, and another budget needs only its candidates measured. Without a
    text, the costs are fixed.

    The options in `how` are those of `regrow.pipeline.plan_spec.PlanSpec`:

    - `params`: the most parameters of the result (`67_000_000`, `"67M"`), or a share of the
      original's (`"50%"`).
    - `bytes`: in its place, the most bytes of the weights (`"500MB"`), or a share.
    - `tokens_per_second`: in its place, the least speed of greedy generation on this machine. It
      needs a text.
    - `calibration_tokens`: the number of tokens that measured cuts are chosen by and refitted on.
    - `candidates`: how many of the best predicted sizes are measured.
    - `seed`: decides which part of the text is used.
    - `special_tokens`: whether the names of special tokens in the text stand for the tokens, also
      in the recipe.

    Args:
        model: a directory, a GGUF file, or a hub id.
        text: text files, of which a part is held back to measure on.
        page: the HTML file to which a page with charts is written. It needs a text.
        progress: receives messages, and the state while cuts are measured.
        how: the budget, and how costs are measured; see above.

    Raises:
        UserError: an option is not valid, the model or a text cannot be read, the model does not
            fit in memory to be measured, or the budget cannot be met.
    """
    from regrow.pipeline.plan_spec import PlanSpec
    from regrow.pipeline.proposal import propose
    from regrow.report.plan_page import write_plan_page

    spec = options_of("plan", PlanSpec, how)
    texts = paths(text)
    if page is not None and not texts:
        raise UserError("the page shows measured costs; give a text", key="text")
    if page is not None:
        check_page(Path(page), model)
    found = propose(open_model(model, progress), spec, str(model), text=texts, progress=progress)
    if page is not None:
        write_plan_page(found, Path(page))
    return found


def prune(
    model: Path | str,
    out: Path | str,
    *,
    calibration: Path | str | None = None,
    seed: int = 0,
    max_shard_bytes: int | str = 5 * 10**9,
    dry_run: bool = False,
    progress: Progress = QUIET,
    **cut: Unpack[PruneOptions],
) -> Pruned:
    """Cut a model, without training, and write a plain Hugging Face directory.

    The options in `cut` are those of `regrow.surgery.cut_spec.CutSpec`:

    - `layers`, `hidden`, `ffn`, `heads`, `kv_heads`, `experts`: sizes that remain (`960`), or sizes
      by stack (`{"encoder": 8, "decoder": 24}`).
    - `drop_layers`: layers to drop, by number from 0: `"12-15,20"`, or a list of numbers.
    - `vocab_size`: the number of tokens that remain (`16_384`, `"16K"`), chosen by their counts in
      the text.
    - `vocab`: in place of `vocab_size`, a mapping with the keys of
      `regrow.vocabulary.vocabulary_spec.VocabularySpec`.
    - `by`: the name of a score, or a function (layout, axis name, open checkpoint, calibration) ->
      scores of shape [size] or [layers, size]; the indices with the highest scores are kept
      (`regrow.scoring.registry.ScoreFunction`). By default, layers are chosen by influence and all
      else by activation.
    - `scores`: in place of `by`, a file that `score` wrote.
    - `refit`: whether the matrices that write to the residual stream are solved for again after the
      cut, so that the stream changes less. By default, if there is a calibration text, and the
      architecture is pre-norm or there are `refit_passes`.
    - `refit_passes`: how many times a refit then reads its text to train each layer alone, towards
      the original's stream. 0 trains nothing.
    - `rotate`: whether `hidden` keeps the principal directions of the residual stream in place of
      some of its channels. By default, if there is a calibration text, the head is not tied to the
      embedding, the architecture allows it, and neither `by` nor `scores` is given.
    - `calibration_tokens`: the number of tokens that directions are found and matrices refitted
      on. Scores are computed on as many, but on at most 16,384.
    - `cut`: a cut file, in place of all other options.

    There is one more option:

    - `special_tokens`: whether the names of special tokens in the calibration text stand for the
      tokens.

    Args:
        model: a directory, a GGUF file, or a hub id.
        out: a new or empty directory.
        calibration: the text file for scores, refits and token counts. Scores from weights or
            random numbers need none.
        seed: decides random scores, which rows of the text are read, and in what order layers are
            trained on them.
        max_shard_bytes: the largest size of a weight file, in bytes (`"500MB"`).
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
    from regrow.surgery.cut_spec import CutSpec
    from regrow.surgery.prune import prepare_cut, prune_checkpoint

    special_tokens = flag("special_tokens", cut.pop("special_tokens", False))
    spec = options_of("prune", CutSpec, cut, ["special_tokens"])
    check_new_directory(Path(out), model, dry_run=dry_run)
    documents = calibration_documents(calibration, special_tokens=special_tokens)
    source = open_model(model, progress)
    options: dict[str, Any] = {
        "documents": documents, "seed": number("seed", seed),
        "max_shard_bytes": nbytes("max_shard_bytes", max_shard_bytes), "progress": progress,
    }  # fmt: skip
    if dry_run:
        planned = prepare_cut(source, spec, **options)
        check_free_space(Path(out), planned.disk_bytes)
        return planned.result(Path(out))
    return prune_checkpoint(source, Path(out), spec, **options)


def score(
    model: Path | str,
    out: Path | str,
    *,
    calibration: Path | str | None = None,
    special_tokens: bool = False,
    seed: int = 0,
    progress: Progress = QUIET,
    **how: Unpack[ScoreOptions],
) -> SavedScores:
    """Save scores in a file, from which `prune(..., scores=out)` cuts without text.

    The options in `how` are those of `regrow.scoring.score_file.ScoreSpec`:

    - `by`: the name of a score. Without it, each axis has its default.
    - `axes`: the names of axes as `inspect` gives them, `["ffn", "head"]` or `"ffn,head"`. Without
      it, all are scored that can be.
    - `calibration_tokens`: the number of tokens that scores are computed on.

    Args:
        model: a directory, a GGUF file, or a hub id.
        out: a new file.
        calibration: the text file. Scores from weights or random numbers need none.
        special_tokens: whether the names of special tokens in the text stand for the tokens.
        seed: decides random scores, and which rows of the text are read.
        progress: receives messages.
        how: what is scored, and how; see above.

    Raises:
        UserError: an option is not valid, `out` exists, or the axes cannot be scored like this.
    """
    from regrow.scoring.score_file import ScoreSpec, compute_scores

    spec = options_of("score", ScoreSpec, how, ["special_tokens"])
    flag("special_tokens", special_tokens)
    path = Path(out)
    check_new_file(path, model)
    documents = calibration_documents(calibration, special_tokens=special_tokens)
    saved = compute_scores(
        open_model(model, progress), spec, documents, seed=number("seed", seed),
        notify=progress.say,
    )  # fmt: skip
    saved.save(path)
    return saved
