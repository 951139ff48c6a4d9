"""What each part of a model is worth."""

from __future__ import annotations  # so that help() shows them as they are written

from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.api.arguments import Paths, open_model, options_of, paths
from regrow.common.errors import UserError
from regrow.common.outputs import check_page
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.surgery.analysis.analysis import Analysis


def analyse(
    model: Path | str,
    *,
    text: Paths,
    page: Path | str | None = None,
    progress: Progress = QUIET,
    **how: Any,
) -> Analysis:
    """Measure what each part of a model is worth, before anything is cut.

    The result holds the parameters by part; the loss along ever less depth and along ever less
    width, with and without a refit; what each axis costs alone; the loss without each layer; the
    scores of layers and heads; and how much of the text smaller vocabularies cover. Nothing is
    trained. What was measured is kept in a cache, which `plan` uses too, so a call that was stopped
    continues when it is repeated.

    The options in `how` are those of `regrow.surgery.analysis.analysis.AnalysisSpec`:

    - `calibration_tokens`: the number of tokens that cuts are chosen by and refitted on.
    - `points`: how many cuts of each line are measured.
    - `seed`: decides which part of the text is used.
    - `special_tokens`: whether the names of special tokens in the text stand for the tokens.

    Args:
        model: a directory, a GGUF file, or a hub id.
        text: text files, of which a part is held back to measure on.
        page: the HTML file to which a page with charts is written.
        progress: receives messages, and the state while cuts are measured.
        how: how it is measured; see above.

    Raises:
        UserError: an option is not valid, the model or a text cannot be read, or the model does
            not fit in memory.
    """
    from regrow.report.analysis_page import write_analysis_page
    from regrow.surgery.analysis.analysis import AnalysisSpec, analyse_model

    spec = options_of("analyse", AnalysisSpec, how)
    texts = paths(text)
    if not texts:
        raise UserError("the losses are measured on text; give some", key="text")
    if page is not None:
        check_page(Path(page), model)
    found = analyse_model(open_model(model, progress), str(model), texts, spec, progress)
    if page is not None:
        write_analysis_page(found, Path(page))
    return found
