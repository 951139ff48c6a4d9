"""The cut of each stage of a recipe, and the layouts of its models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from regrow.architectures import Layout
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.steps import AT_ONCE, control_settings
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.requested_cut import RequestedCut, request_cut
from regrow.surgery.size_options import options_for
from regrow.vocabulary.kept_tokens import check_vocabulary
from regrow.vocabulary.plan_file import load_plan
from regrow.vocabulary.vocabulary_spec import VocabularySpec


@dataclass(frozen=True)
class StageLayouts:
    """The cut of a stage, and the layouts of its models.

    Attributes:
        before: Of the model that it starts from.
        after: Of the model that it makes.
        teacher: Of the teacher of its recovery; None without one.
        cut: None if it cuts nothing.
    """

    before: Layout
    after: Layout
    teacher: Layout | None
    cut: RequestedCut | None


def layouts_by_stage(stages: Iterable[Stage], original: ModelDirectory) -> dict[str, StageLayouts]:
    """The cuts and layouts of stages, by the name of the stage.

    `stages`: each starts from the model of the one before. `original`: may be a directory with a
    config alone.

    Raises UserError, with the stage, if a cut cannot be made.
    """
    layouts: dict[str, StageLayouts] = {}
    after = original.layout
    fingerprint = None if original.is_config_only else original.checkpoint.fingerprint
    for stage in stages:
        before, cut = after, None
        if stage.cut is not None:
            try:
                cut = request_cut(stage.cut, before, fingerprint=fingerprint, has_text=True)
                after = before.resized({**cut.sizes, **_vocabulary_after(cut, original)})
            except UserError as error:
                raise error_of_cut(stage.name, error) from None
        teacher = _teacher(stage, before, original.layout)
        layouts[stage.name] = StageLayouts(before, after, teacher, cut)
        fingerprint = None  # later stages cut models that do not exist yet
    return layouts


def _teacher(stage: Stage, before: Layout, original: Layout) -> Layout | None:
    distill = stage.recover.distill if stage.recover else None
    if distill is None:
        return None
    return before if distill.teacher == "previous" else original


def error_of_cut(stage: str, error: UserError) -> UserError:
    """The same error with its key in the recipe."""
    place = f"stages: {stage}: "
    return error.within(place if error.key is None else f"{place}cut.")


def _vocabulary_after(cut: RequestedCut, original: ModelDirectory) -> dict[str, int]:
    """The size of the vocabulary after a cut, as {"vocab": size}.

    Empty if it stays whole, or is not known yet.
    """
    layout, vocab = cut.layout, cut.vocabulary
    if vocab is None and "vocab" in cut.sizes:  # the cut comes from a cut file
        vocab = VocabularySpec(size=cut.sizes["vocab"])
    if vocab is None:
        return {}
    if layout.sizes["vocab"] != original.layout.sizes["vocab"] and (vocab.counts or vocab.plan):
        key = "counts" if vocab.counts else "plan"
        raise UserError(
            "made for the tokenizer of the original, which an earlier stage cuts; cut the "
            "vocabulary once, or give a size alone",
            key=f"vocab.{key}",
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


def at_once_stage(recipe: Recipe, layouts: Mapping[str, StageLayouts]) -> Stage | None:
    """The comparison stage that makes all cuts in one and trains on the tokens of all recoveries.

    Score and refit are those that all cuts name; if they differ, the default. The passes of a refit
    and the tokens of its text are the most of any cut. Of several cuts of the vocabulary, the last
    one decides. A cut by a file of scores counts as one that
    names no score. Hidden is rotated if all cuts of it are. None if the recipe has fewer than two
    cuts, or trains nothing.

    `layouts`: of the stages of the recipe.
    """
    original, *_, last = (each for it in layouts.values() for each in (it.before, it.after))
    cuts = [each.cut for each in layouts.values() if each.cut is not None]
    specs = [cut.spec for cut in cuts]
    settings = control_settings(recipe)
    options = options_for(original, last.sizes)
    if len(specs) < 2 or settings is None or not options:
        return None
    scores, refits = {spec.by for spec in specs}, {spec.refit for spec in specs}
    of_hidden = [
        cut
        for cut in cuts
        if any(original.blueprint.axis(name).kind == "hidden" for name in cut.sizes)
    ]
    vocabularies = [spec.vocabulary for spec in specs if spec.vocabulary is not None]
    if vocabularies:
        options["vocab"] = vocabularies[-1]
        options.pop("vocab_size", None)
    together = CutSpec(
        **options,
        by=scores.pop() if len(scores) == 1 else None,
        refit=refits.pop() if len(refits) == 1 else None,
        rotate=all(cut.rotated for cut in of_hidden) if "hidden" in options else None,
        refit_passes=max(spec.refit_passes for spec in specs),
        calibration_tokens=max(spec.calibration_tokens for spec in specs),
    )
    return Stage(name=AT_ONCE, cut=together, recover=settings)
