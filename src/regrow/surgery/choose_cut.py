"""Choose the indices of a requested cut: tokens by counts, all others by scores."""

from typing import TYPE_CHECKING

import numpy as np

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.progress import QUIET, Progress
from regrow.corpus.text import Documents
from regrow.cuts.choose_indices import Scores, choose
from regrow.cuts.cut import AxisCut, Cut
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.requested_cut import RequestedCut

if TYPE_CHECKING:
    from regrow.vocabulary.kept_tokens import KeptTokens

MIN_TEXT_TOKENS = 512
"""A vocabulary is chosen by counts only if the text has at least this many tokens.

If the spec has fewer calibration tokens, that number is enough.
"""


def least_counted(spec: CutSpec) -> int:
    """How many tokens must be counted to choose the vocabulary of a spec; 0 if none are counted."""
    vocabulary = spec.vocabulary
    if vocabulary is None or vocabulary.counts is not None or vocabulary.plan is not None:
        return 0
    return min(MIN_TEXT_TOKENS, spec.calibration_tokens)


def choose_cut(
    source: ModelDirectory,
    request: RequestedCut,
    documents: Documents | None,
    *,
    counted: Documents | None = None,
    seed: int,
    progress: Progress = QUIET,
) -> tuple[Cut, "KeptTokens | None"]:
    """Choose the indices that stay; also returns the kept tokens if it chose a vocabulary, or None.

    `source`: the model that the cut was requested of. `documents`: text for scores and token
    counts; None if there is no text. `counted`: the text whose tokens are counted, if it is
    another.
    """
    checkpoint, layout = source.checkpoint, source.layout
    spec, sizes, fixed = request.spec, request.sizes, dict(request.kept)
    if request.from_file is not None:
        return request.from_file, None
    tokens: KeptTokens | None = None
    if request.vocabulary is not None:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        tokens = choose_vocabulary(
            source.path, layout, request.vocabulary, documents, counted=counted,
            least_tokens=least_counted(spec), notify=progress.say,
        )  # fmt: skip
        kept = np.concatenate([tokens.choice.kept, tokens.padding])
        layout.check_sizes({**sizes, "vocab": len(kept)})
        fixed["vocab"] = kept
    if request.rotated is not None:
        fixed[request.rotated] = np.arange(sizes[request.rotated], dtype=np.int64)
    scores: Scores = request.scores or {}
    if request.scored and request.scores is None:
        from regrow.scoring.calibration import TOKENS, CalibrationText
        from regrow.scoring.score import score

        text = None
        if documents is not None:
            text = CalibrationText(documents, min(spec.calibration_tokens, TOKENS))
        scores = score(
            source, request.scored, by=spec.by, text=text, sizes=sizes, seed=seed,
            notify=progress.say,
        )  # fmt: skip
    cut = choose(layout, checkpoint.fingerprint, sizes, scores, fixed)
    axes = dict(cut.axes)
    if tokens is not None and len(tokens.padding):
        axes["vocab"] = AxisCut(layout.sizes["vocab"], fixed["vocab"], padded=len(tokens.padding))
    if (name := request.rotated) is not None:
        axes[name] = AxisCut(layout.sizes[name], fixed[name], rotated=True)
    return Cut(cut.model, {n: axes[n] for n in layout.blueprint.axis_names if n in axes}), tokens
