"""The layouts of the models of each stage of a recipe; its cuts are checked on the way."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.steps import AT_ONCE, control_settings
from regrow.scoring.score_file import scores_for
from regrow.surgery.cut import Cut, check_cut
from regrow.surgery.cut_checks import check_refit, check_rotation, cuts_hidden, rotates
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.requests import check_cuts_something, options_for, sizes_from_options
from regrow.vocabulary.kept_tokens import check_vocabulary
from regrow.vocabulary.plan_file import load_plan
from regrow.vocabulary.vocabulary_spec import VocabularySpec


@dataclass(frozen=True)
class StageLayouts:
    """The layouts of the models of a stage.

    Attributes:
        before: Of the model that it starts from.
        after: Of the model that it makes.
        teacher: Of the teacher of its recovery; None without one.
    """

    before: Layout
    after: Layout
    teacher: Layout | None


def stage_layouts(stage: Stage, before: Layout, after: Layout, original: Layout) -> StageLayouts:
    """The layouts of a stage that makes a model `after` from one `before`."""
    distill = stage.recover.distill if stage.recover else None
    if distill is None:
        return StageLayouts(before, after, None)
    return StageLayouts(before, after, before if distill.teacher == "previous" else original)


def layouts_by_stage(recipe: Recipe, original: ModelDirectory) -> dict[str, StageLayouts]:
    """The layouts of each stage, by the name of the stage.

    `original`: may be a directory with a config alone.

    Raises UserError, with the stage, if a cut cannot be made.
    """
    layouts: dict[str, StageLayouts] = {}
    layout = original.layout
    for number, stage in enumerate(recipe.stages):
        try:
            sizes = _sizes_after(stage, layout, original if number == 0 else None)
            vocab = stage.cut.vocabulary if stage.cut else None
            if vocab is None and "vocab" in sizes:  # the cut comes from a cut file
                vocab = VocabularySpec(size=sizes["vocab"])
            if vocab is not None and sizes.get("vocab", 0) < layout.sizes["vocab"]:
                sizes |= _vocabulary_after(vocab, layout, original)
        except UserError as error:
            raise error.within(f"stages: {stage.name}: ") from None
        before, layout = layout, layout.resized(sizes)
        layouts[stage.name] = stage_layouts(stage, before, layout, original.layout)
    return layouts


def _vocabulary_after(
    vocab: VocabularySpec, layout: Layout, original: ModelDirectory
) -> dict[str, int]:
    """The size of the vocabulary after a cut, as {"vocab": size}; empty if it is not known yet.

    `layout`: of the model that is cut.
    """
    if layout.sizes["vocab"] != original.layout.sizes["vocab"] and (vocab.counts or vocab.plan):
        key = "counts" if vocab.counts else "plan"
        raise UserError(
            "made for the tokenizer of the original, which an earlier stage cuts; cut the "
            "vocabulary once, or give a size alone",
            key=f"cut.vocab.{key}",
        )
    if not original.is_config_only:
        return {"vocab": check_vocabulary(original.path, original.layout, vocab)}
    if vocab.plan is not None:
        tokens = len(load_plan(vocab.plan).choice.kept)
    elif vocab.size is not None:
        tokens = vocab.size
    else:
        return {}
    return {"vocab": tokens + vocab.padding(tokens, layout.sizes["vocab"])}


def at_once_stage(recipe: Recipe, original: Layout, last: Layout) -> Stage | None:
    """The comparison stage that makes all cuts in one and trains on the tokens of all recoveries.

    Score and refit are those that all cuts name; if they differ, the default. The passes of a refit
    and the tokens of its text are the most of any cut. A cut by a file of
    scores counts as one that names no score. Hidden is rotated if all cuts of it are. None if the
    recipe has fewer than two cuts, or trains nothing.
    """
    cuts = [stage.cut for stage in recipe.stages if stage.cut is not None]
    settings = control_settings(recipe)
    options = options_for(original, last.sizes)
    if len(cuts) < 2 or settings is None or not options:
        return None
    scores, refits = {cut.by for cut in cuts}, {cut.refit for cut in cuts}
    rotations = {rotates(cut, original) for cut in cuts if cuts_hidden(cut)}
    vocabularies = [cut.vocab for cut in cuts if cut.vocab is not None]
    if vocabularies:
        options["vocab"] = vocabularies[0]
        options.pop("vocab_size", None)
    spec = CutSpec(
        **options,
        by=scores.pop() if len(scores) == 1 else None,
        refit=refits.pop() if len(refits) == 1 else None,
        rotate=rotations == {True} if "hidden" in options else None,
        refit_passes=max(cut.refit_passes for cut in cuts),
        calibration_tokens=max(cut.calibration_tokens for cut in cuts),
    )
    return Stage(name=AT_ONCE, cut=spec, recover=settings)


def _sizes_after(stage: Stage, layout: Layout, source: ModelDirectory | None) -> dict[str, int]:
    """The sizes that the cut of a stage leaves, by axis.

    `source`: the model that is cut; None if it does not exist yet.
    """
    from regrow.scoring.registry import SCORES

    if stage.cut is None:
        return {}
    check_refit(stage.cut, layout, has_text=True)
    check_rotation(stage.cut, layout, has_text=True)
    if stage.cut.cut is not None:
        cut = Cut.load(stage.cut.cut)
        has_weights = source is not None and not source.is_config_only
        fingerprint = source.checkpoint.fingerprint if source and has_weights else cut.model
        check_cut(cut, layout, fingerprint)
        return cut.sizes
    sizes, given = sizes_from_options(layout, stage.cut.options)
    if stage.cut.vocab is None:
        try:
            check_cuts_something(layout, stage.cut.options, sizes, given)
        except UserError as error:
            raise error.within("cut.") from None
    if stage.cut.scores is not None:
        _check_scores(stage.cut.scores, layout, source, sizes.keys() - given.keys())
    for name, size in sizes.items():
        axis = layout.blueprint.axis(name)
        by = stage.cut.by
        scored = name not in given and size < layout.sizes[name] and axis.kind != "vocab"
        if scored and isinstance(by, str) and axis.kind not in SCORES[by].kinds:
            raise UserError(
                f"{by} scores {', '.join(SCORES[by].kinds)}, not {name}; leave it out to take the "
                "best for each axis",
                key="cut.by",
            )
    return sizes | {name: len(keep) for name, keep in given.items()}


def _check_scores(
    path: Path, layout: Layout, source: ModelDirectory | None, axes: Collection[str]
) -> None:
    """Raise UserError if a file of scores is not for a cut of these axes.

    `source`: the model that is cut; None if it does not exist yet.
    """
    has_weights = source is not None and not source.is_config_only
    fingerprint = source.checkpoint.fingerprint if source and has_weights else None
    scored = [name for name in axes if layout.blueprint.axis(name).kind != "vocab"]
    try:
        scores_for(path, layout, fingerprint, scored)
    except UserError as error:
        raise error.within("cut.") from None
