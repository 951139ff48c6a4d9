"""Count what a corpus needs of a vocabulary, plan a smaller one, or add tokens."""

from __future__ import annotations  # so that help() shows them as they are written

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from regrow.api.arguments import (
    Paths,
    check_names,
    number,
    open_model,
    paths,
    workers_or_cores,
)
from regrow.api.options import MergeOptions, VocabularyOptions
from regrow.common.outputs import check_new_directory, check_new_file, check_page
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.surgery.grow_vocabulary import Grown
    from regrow.vocabulary.sizing import VocabularyPlan
    from regrow.vocabulary.token_counting import Counted


def count_vocabulary(
    model: Path | str,
    out: Path | str,
    corpus: Paths = (),
    *,
    merge: Paths = (),
    workers: int | None = None,
    progress: Progress = QUIET,
) -> Counted:
    """Count how often each token occurs in text files, by source and script.

    A call that was stopped continues when it is repeated with the same arguments. It starts
    processes, so a script must call it below `if __name__ == "__main__":`.

    Args:
        model: the model whose tokenizer is used.
        out: a new file for the counts.
        corpus: a text file or a directory, or several. `"NAME=PATH"` gives the source a name, such
            as its language.
        merge: files of earlier counts to add.
        workers: the number of processes; None takes one for each core.
        progress: receives the bytes read.

    Raises:
        UserError: a text, a file of counts or the tokenizer cannot be read, or `out` cannot be
            written.
    """
    from regrow.corpus.named_files import named_files
    from regrow.corpus.text_files import check_text_file
    from regrow.vocabulary.scripts import RESERVED
    from regrow.vocabulary.token_counting import count_files

    count = workers_or_cores(workers)
    check_new_file(Path(out), model)
    files = named_files([str(path) for path in paths(corpus)], "corpus", RESERVED)
    for file in files:
        check_text_file(file.path)
    return count_files(
        open_model(model, progress).path, Path(out), files, more=paths(merge),
        workers=count, progress=progress.advance,
    )  # fmt: skip


def plan_vocabulary(
    model: Path | str,
    counts: Path | str,
    *,
    text: Paths | None = None,
    out: Path | str | None = None,
    page: Path | str | None = None,
    progress: Progress = QUIET,
    **choice: Unpack[VocabularyOptions],
) -> VocabularyPlan:
    """Compute what each vocabulary size covers of a corpus and saves, and suggest a size.

    The options in `choice` are those of `regrow.vocabulary.vocabulary_spec.VocabularySpec`:

    - `size`: the number of tokens that stay (`16_384`, `"16K"`).
    - `coverage`: in its place, the share of the counted tokens that they cover (`"99.9%"`).
    - `only`: the languages (sources or scripts) whose counts decide.
    - `minimum`: of each language, so many of its most frequent tokens stay.
    - `keep`, `drop`: lists of tokens that stay or go, or files with one in each line.
    - `characters`: whether all characters stay if the tokenizer has no tokens for bytes.

    Args:
        model: a directory, a GGUF file, or a hub id.
        counts: the file that `count_vocabulary` wrote.
        text: the files on which tokens per character are measured, named as in `count_vocabulary`;
            None takes a sample of the counted files.
        out: the file to which the plan is written, for `prune(..., vocab={"plan": out})`.
        page: the HTML file to which a page with charts is written.
        progress: receives messages.
        choice: what stays; see above.

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
    from regrow.vocabulary.scripts import RESERVED
    from regrow.vocabulary.sizing import plan_vocabulary
    from regrow.vocabulary.vocabulary_spec import VocabularySpec

    check_names("plan_vocabulary", choice, VocabularyOptions.__annotations__)
    spec = validated(VocabularySpec, {**choice, "counts": Path(counts)})
    if out is not None:
        check_new_file(Path(out), model)
    if page is not None:
        check_page(Path(page), model)
    texts = None if text is None else [str(path) for path in paths(text)]
    files = None if texts is None else named_files(texts, "text", RESERVED)
    plan = plan_vocabulary(
        open_model(model, progress), Path(counts), spec, files, notify=progress.say
    )
    if out is not None:
        save_plan(plan, Path(out))
    if page is not None:
        write_vocabulary_page(plan, Path(page))
    return plan


def grow_vocabulary(
    model: Path | str,
    out: Path | str,
    corpus: Paths,
    *,
    text: Paths | None = None,
    dry_run: bool = False,
    progress: Progress = QUIET,
    **limits: Unpack[MergeOptions],
) -> Grown:
    """Add tokens for frequent words of a domain, and write the larger model.

    Each new token is merged from two tokens. Its embedding and head rows are the mean of the rows
    of the original tokens that it stands for.

    The options in `limits` are those of `regrow.surgery.grow_vocabulary.MergeLimits`:

    - `max_tokens`: how many tokens are added, at most; 1,000 by default.
    - `min_count`: how often each occurs in the corpus, at least.

    Args:
        model: a directory, a GGUF file, or a hub id. Its tokenizer must be BPE.
        out: a new or empty directory.
        corpus: text of the domain, files or directories, named as in `count_vocabulary`.
        text: the files on which tokens per character are measured; None takes a sample of the
            corpus.
        dry_run: choose and measure, and write nothing.
        progress: receives messages.
        limits: see above.

    Raises:
        UserError: the tokenizer is not BPE, the corpus is empty, or no pair of tokens is frequent
            enough.
    """
    from regrow.corpus.named_files import named_files
    from regrow.surgery.grow_vocabulary import MergeLimits, grow_vocabulary
    from regrow.vocabulary.scripts import RESERVED

    check_names("grow_vocabulary", limits, MergeOptions.__annotations__)
    given: dict[str, Any] = {**limits}
    most = MergeLimits(**{key: number(key, value) for key, value in given.items()})
    check_new_directory(Path(out), model, dry_run=dry_run)
    files = named_files([str(path) for path in paths(corpus)], "corpus", RESERVED)
    measured = None if text is None else [str(path) for path in paths(text)]
    texts = None if measured is None else named_files(measured, "text", RESERVED)
    return grow_vocabulary(
        open_model(model, progress), Path(out), files, most, texts=texts, dry_run=dry_run,
        notify=progress.say,
    )  # fmt: skip
