"""The cut of each stage of a recipe, and the layout of the model after it."""

from collections.abc import Iterable, Mapping

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


def layouts_by_stage(recipe: Recipe, original: ModelDirectory) -> dict[str, Layout]:
    """The layout after each stage, by the name of the stage, as `cuts_and_layouts` gives it."""
    return cuts_and_layouts(recipe.stages, original)[1]


def cuts_and_layouts(
    stages: Iterable[Stage], original: ModelDirectory
) -> tuple[dict[str, RequestedCut], dict[str, Layout]]:
    """The cuts of the stages that have one, and the layout after each stage, by name.

    `stages`: each starts from the model of the one before. `original`: may be a directory with a
    config alone.

    Raises UserError, with the stage, if a cut cannot be made.
    """
    cuts: dict[str, RequestedCut] = {}
    layouts: dict[str, Layout] = {}
    layout = original.layout
    fingerprint = None if original.is_config_only else original.checkpoint.fingerprint
    for stage in stages:
        if stage.cut is not None:
            try:
                cut = request_cut(stage.cut, layout, fingerprint=fingerprint, has_text=True)
                layout = layout.resized({**cut.sizes, **_vocabulary_after(cut, original)})
            except UserError as error:
                raise error_of_cut(stage.name, error) from None
            cuts[stage.name] = cut
        layouts[stage.name] = layout
        fingerprint = None  # later stages cut models that do not exist yet
    return cuts, layouts


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


def at_once_stage(
    recipe: Recipe, cuts: Mapping[str, RequestedCut], original: Layout, last: Layout
) -> Stage | None:
    """The comparison stage that makes all cuts in one and trains on the tokens of all recoveries.

    Score and refit are those that all cuts name; if they differ, the default. The passes of a refit
    and the tokens of its text are the most of any cut. A cut by a file of scores counts as one that
    names no score. Hidden is rotated if all cuts of it are. None if the recipe has fewer than two
    cuts, or trains nothing.

    `cuts`: of the stages. `original`, `last`: the layouts before the first and after the last.
    """
    specs = [cut.spec for cut in cuts.values()]
    settings = control_settings(recipe)
    options = options_for(original, last.sizes)
    if len(specs) < 2 or settings is None or not options:
        return None
    scores, refits = {spec.by for spec in specs}, {spec.refit for spec in specs}
    of_hidden = [
        cut
        for cut in cuts.values()
        if any(original.blueprint.axis(name).kind == "hidden" for name in cut.sizes)
    ]
    vocabularies = [spec.vocab for spec in specs if spec.vocab is not None]
    if vocabularies:
        options["vocab"] = vocabularies[0]
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
