"""Choose the cut of a spec: the tokens, the directions, and by scores all other indices to keep."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.progress import QUIET, Progress
from regrow.corpus.text import Documents
from regrow.scoring.score_file import scores_for
from regrow.surgery.choose import Scores, choose
from regrow.surgery.cut import AxisCut, Cut, check_cut
from regrow.surgery.cut_checks import rotates
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.requests import check_cuts_something, sizes_from_options
from regrow.surgery.rotatable import hidden_axis

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
    spec: CutSpec,
    documents: Documents | None,
    *,
    counted: Documents | None = None,
    seed: int,
    progress: Progress = QUIET,
) -> tuple[Cut, "KeptTokens | None"]:
    """Choose the cut of a spec; also returns the kept tokens if it chose a vocabulary, else None.

    `documents`: text for scores and token counts; None if there is no text. `counted`: the text
    whose tokens are counted, if it is another.
    """
    checkpoint, layout = source.checkpoint, source.layout
    if spec.cut is not None:
        cut = Cut.load(spec.cut)
        check_cut(cut, layout, checkpoint.fingerprint)
        return cut, None
    sizes, fixed = sizes_from_options(layout, spec.options)
    if spec.vocab is None:
        check_cuts_something(layout, spec.options, sizes, fixed)
    tokens: KeptTokens | None = None
    if spec.vocabulary and sizes.get("vocab", 0) < layout.sizes["vocab"]:
        from regrow.vocabulary.kept_tokens import choose_vocabulary

        tokens = choose_vocabulary(
            source.path, layout, spec.vocabulary, documents, counted=counted,
            least_tokens=least_counted(spec), notify=progress.say,
        )  # fmt: skip
        kept = np.concatenate([tokens.choice.kept, tokens.padding])
        layout.check_sizes({**sizes, "vocab": len(kept)})
        fixed["vocab"] = kept
    rotated = _rotated_axis(spec, layout, sizes) if documents is not None else None
    if rotated is not None:
        fixed[rotated] = np.arange(sizes[rotated], dtype=np.int64)
    scored = [
        name for name, size in sizes.items() if name not in fixed and size < layout.sizes[name]
    ]
    scores: Scores = {}
    if spec.scores is not None:
        scores = scores_for(spec.scores, layout, checkpoint.fingerprint, scored)
    elif scored:
        from regrow.scoring.calibration import TOKENS, CalibrationText
        from regrow.scoring.score import score

        text = None
        if documents is not None:
            text = CalibrationText(documents, min(spec.calibration_tokens, TOKENS))
        scores = score(
            source, scored, by=spec.by, text=text, sizes=sizes, seed=seed, notify=progress.say
        )
    cut = choose(layout, checkpoint.fingerprint, sizes, scores, fixed)
    axes = dict(cut.axes)
    if tokens is not None and len(tokens.padding):
        axes["vocab"] = AxisCut(layout.sizes["vocab"], fixed["vocab"], padded=len(tokens.padding))
    if rotated is not None:
        axes[rotated] = AxisCut(layout.sizes[rotated], fixed[rotated], rotated=True)
    return Cut(cut.model, {n: axes[n] for n in layout.blueprint.axis_names if n in axes}), tokens


def _rotated_axis(spec: CutSpec, layout: Layout, sizes: Mapping[str, int]) -> str | None:
    """The axis of hidden if the cut rotates it; `sizes`: after the cut."""
    name = hidden_axis(layout)
    if name is None or sizes.get(name, layout.sizes[name]) == layout.sizes[name]:
        return None
    return name if rotates(spec, layout) else None
