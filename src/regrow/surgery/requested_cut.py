"""What the options of a cut ask of a model, and whether that is possible; no weights are read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from regrow.architectures import Layout
from regrow.common.errors import UserError
from regrow.cuts.choose_indices import Scores
from regrow.cuts.cut import Cut, check_cut
from regrow.cuts.ranges import Indices
from regrow.cuts.rotatable import hidden_axis, rotation_problem
from regrow.scoring.score import check_scores
from regrow.scoring.score_file import scores_for
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.size_options import check_cuts_something, sizes_from_options
from regrow.vocabulary.kept_tokens import check_text
from regrow.vocabulary.vocabulary_spec import VocabularySpec


@dataclass(frozen=True)
class RequestedCut:
    """A cut that is possible, before its indices are chosen.

    Attributes:
        spec: The options of the cut.
        layout: Of the model that is cut.
        sizes: The sizes after the cut, by axis; only of axes that get smaller. Of the vocabulary it
            is the number of tokens that was asked for, and absent if no number was.
        only_vocabulary: Whether the layers stay as they are.
        is_refitted: Whether the layers are solved for or trained after the cut.
        rotated: The axis of hidden, if it keeps principal directions; None otherwise.
        from_file: The cut of a cut file; nothing is to be chosen then. None without one.
        kept: The indices that stay, by axis, if the user listed those that go.
        vocabulary: How the kept tokens are still to be chosen; None if none are.
        scored: The axes whose indices are chosen by scores.
        scores: The scores from a file; None without one.
    """

    spec: CutSpec
    layout: Layout
    sizes: Mapping[str, int]
    only_vocabulary: bool
    is_refitted: bool
    rotated: str | None
    from_file: Cut | None = None
    kept: Mapping[str, Indices] = field(default_factory=dict)
    vocabulary: VocabularySpec | None = None
    scored: tuple[str, ...] = ()
    scores: Scores | None = None


def request_cut(
    spec: CutSpec, layout: Layout, *, fingerprint: str | None, has_text: bool
) -> RequestedCut:
    """What a cut asks of a model.

    `layout`: of the model. `fingerprint`: of its weights; None if there are none yet. `has_text`:
    whether there is a text to score, rotate and refit on.

    Raises UserError, with the option as key, for all that needs neither weights nor the text to be
    found wrong. What a vocabulary must hold follows from the tokenizer, and is checked in
    `regrow.vocabulary.kept_tokens`.
    """
    if spec.cut is not None:
        return _from_file(spec, Cut.load_named(spec.cut), layout, fingerprint, has_text)
    all_sizes, kept = sizes_from_options(layout, spec.options)
    vocabulary = spec.vocabulary
    if vocabulary is None or vocabulary.size is not None:
        check_cuts_something(layout, spec.options, all_sizes, kept)
    all_sizes |= {name: len(keep) for name, keep in kept.items()}
    sizes = {name: size for name, size in all_sizes.items() if size < layout.sizes[name]}
    # Beside another cut, all tokens may stay; what else is asked of them is still to be met.
    if vocabulary == VocabularySpec(size=layout.sizes["vocab"]):
        vocabulary = None
    if vocabulary is not None:
        check_text(vocabulary, has_text=has_text)
    only_vocabulary = _only_vocabulary(layout, sizes)
    rotated = _rotated_axis(spec, layout, sizes, has_text)
    is_refitted = _is_refitted(
        spec, layout, only_vocabulary=only_vocabulary, is_ordered=True, has_text=has_text
    )
    chosen = {*kept, rotated, "vocab"}
    scored = tuple(name for name in sizes if name not in chosen)
    scores: Scores | None = None
    if spec.scores is not None:
        scores = scores_for(spec.scores, layout, fingerprint, scored)
    else:
        check_scores(layout, scored, spec.by, has_text=has_text)
    return RequestedCut(
        spec, layout, sizes, kept=kept, vocabulary=vocabulary, rotated=rotated, scored=scored,
        scores=scores, only_vocabulary=only_vocabulary, is_refitted=is_refitted,
    )  # fmt: skip


def is_refitted_by_default(layout: Layout, axes: Iterable[str]) -> bool:
    """Whether a cut of these axes is refitted if there is a text and no option says otherwise."""
    return layout.blueprint.solvable and not _only_vocabulary(layout, axes)


def _only_vocabulary(layout: Layout, axes: Iterable[str]) -> bool:
    return all(layout.blueprint.axis(name).kind == "vocab" for name in axes)


def _from_file(
    spec: CutSpec, cut: Cut, layout: Layout, fingerprint: str | None, has_text: bool
) -> RequestedCut:
    check_cut(cut, layout, cut.model if fingerprint is None else fingerprint)
    rotated = next((name for name, axis in cut.axes.items() if axis.rotated), None)
    if rotated is not None and not has_text:
        raise UserError("its principal directions are found on a text; give one", key="cut")
    changed = [name for name, axis in cut.axes.items() if not axis.is_identity]
    only_vocabulary = _only_vocabulary(layout, changed)
    is_ordered = all(
        (np.diff(axis.keep) > 0).all()
        for name, axis in cut.axes.items()
        if layout.blueprint.axis(name).kind == "layer"
    )
    is_refitted = _is_refitted(
        spec, layout, only_vocabulary=only_vocabulary, is_ordered=is_ordered, has_text=has_text
    )
    sizes = {name: size for name, size in cut.sizes.items() if size < layout.sizes[name]}
    return RequestedCut(
        spec, layout, sizes, from_file=cut, rotated=rotated, only_vocabulary=only_vocabulary,
        is_refitted=is_refitted,
    )  # fmt: skip


def _rotated_axis(
    spec: CutSpec, layout: Layout, sizes: Mapping[str, int], has_text: bool
) -> str | None:
    """The axis of hidden if the cut rotates it.

    Raises UserError if this is asked for and is not possible.
    """
    axis, problem = hidden_axis(layout), rotation_problem(layout)
    if spec.rotate:
        if not has_text:
            raise UserError(
                "principal directions are found on a text; give one, or leave rotate out",
                key="rotate",
            )
        if problem:
            raise UserError(f"{problem}; leave rotate out", key="rotate")
        if axis not in sizes:
            raise UserError("hidden keeps its size; leave rotate out", key="rotate")
        # Scores of hidden may be in a file of scores of all axes, and are not used.
        if spec.by is not None and spec.options.keys() == {"hidden"}:
            raise UserError(
                "principal directions are chosen by themselves; leave by or rotate out",
                key="rotate",
            )
    by_default = problem is None and spec.by is None and spec.scores is None
    wanted = by_default if spec.rotate is None else spec.rotate
    return axis if wanted and has_text and axis in sizes else None


def _is_refitted(
    spec: CutSpec, layout: Layout, *, only_vocabulary: bool, is_ordered: bool, has_text: bool
) -> bool:
    """Whether a cut is refitted; `is_ordered`: whether its layers keep their order.

    Raises UserError if this is asked for and is not possible.
    """
    blueprint = layout.blueprint
    is_possible = blueprint.solvable or spec.refit_passes > 0
    asked = [name for name in ("refit", "refit_passes") if getattr(spec, name)]
    if asked:
        key, names = asked[0], " and ".join(asked)
        if spec.refit is False:
            raise UserError(
                "refit is false, so no layer is trained; leave one of them out", key=key
            )
        if not has_text:
            raise UserError(f"a refit needs a text; give one, or leave {names} out", key=key)
        if only_vocabulary:
            raise UserError(
                f"only the vocabulary is cut, which changes no layer; leave {names} out", key=key
            )
        if not is_possible:
            why = (
                "has experts, whose outputs a router weighs"
                if blueprint.pre_norm
                else "normalises what attention and ffn write before it is in the residual stream"
            )
            raise UserError(
                f"{blueprint.model_type} {why}, so no matrix can be solved for; give refit_passes, "
                "which trains each layer, or leave refit out",
                key=key,
            )
        if not is_ordered:
            raise UserError(
                "the cut puts layers in another order, so no stream of the original is theirs; "
                f"leave {names} out",
                key=key,
            )
    is_wanted = spec.refit is not False and has_text
    return is_wanted and is_possible and is_ordered and not only_vocabulary
