"""Compute what a recipe will do, stage by stage, from config and headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from regrow.architectures import Layout
from regrow.architectures.flops import SampleShape, forward_flops, training_flops
from regrow.checkpoint.bind import parameters_counted_once
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import QUIET, Progress
from regrow.pipeline.published import Training, published_original, published_training
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.recipe_checks import check_languages
from regrow.pipeline.stage_layouts import StageLayouts, layouts_by_stage
from regrow.pipeline.task_steps import evaluated_stages
from regrow.pipeline.training_time import TrainingTime, time_of, training_of
from regrow.training.cost import mean_sample


@dataclass(frozen=True)
class PreviewTraining:
    """A recovery and its cost.

    Attributes:
        tokens: Tokens of text.
        objective: The name of the objective.
        sample: The mean shape of a sample whose text fills a row.
        flops: Floating-point operations, with those of the teacher.
        reported: The same training in the OpenBA-V2 report, if it has one. Objective and sample are
            then those of the report.
        taught: Floating-point operations of the teacher's forward passes.
        seconds: The estimated time on this machine; None if it was not estimated.
    """

    tokens: int
    objective: str
    sample: SampleShape
    flops: int
    reported: Training | None
    taught: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class PreviewStage:
    """The model after a stage, or the original.

    Attributes:
        name: The name of the stage, or `original`.
        sizes: Size by axis.
        parameters: Parameters, with embedding and head counted as one matrix.
        stored: Parameters as they are in the file, which may store both matrices.
        nbytes: Bytes of the weights.
        training: The stage's recovery; for the original, its training in the report.
    """

    name: str
    sizes: Mapping[str, int]
    parameters: int
    stored: int
    nbytes: int
    training: PreviewTraining | None


@dataclass(frozen=True)
class PreviewEvaluation:
    """What models are evaluated on.

    Attributes:
        tasks: As the recipe names them. Their questions are not read for a preview.
        limit: The most questions of each task; None for all.
        models: The stages whose models are evaluated, and `original`.
    """

    tasks: tuple[str, ...]
    limit: int | None
    models: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """What a recipe will do.

    Attributes:
        name: The name of the recipe.
        model: Its model, as it is written there.
        model_type: As in the config.
        original: The original.
        stages: All stages, without the original.
        written: Tokens of training text that the original writes first.
        puts_aside: Whether a part of the training text is held out, since the recipe names no
            held-out text.
        time: The estimated time of all recoveries on this machine, and of the layers that cuts
            train alone; None if it was not estimated, or would be seconds.
        evaluation: The tasks on which models are evaluated; None without any.
    """

    name: str
    model: str
    model_type: str
    original: PreviewStage
    stages: tuple[PreviewStage, ...]
    written: int = 0
    puts_aside: bool = False
    time: TrainingTime | None = None
    evaluation: PreviewEvaluation | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations of all recoveries."""
        return sum(stage.training.flops for stage in self.stages if stage.training)


def preview_recipe(
    recipe: Recipe, model: ModelDirectory, *, timed: bool = False, progress: Progress = QUIET
) -> Preview:
    """Compute the sizes and costs of a recipe for a model, which may be a config alone.

    `timed`: also try how fast this machine trains, which takes some seconds.

    Raises UserError, with the stage, if a cut cannot be made or an objective does not fit the
    model.
    """
    check_languages(recipe.data)
    layout = model.layout
    per_parameter = model.weight_bytes / layout.parameters()
    kind = layout.blueprint.model_type

    def stage(name: str, after: Layout, training: PreviewTraining | None) -> PreviewStage:
        stored = after.parameters()
        sizes = {axis: after.sizes[axis] for axis in layout.blueprint.axis_names}
        once = parameters_counted_once(after)
        return PreviewStage(name, sizes, once, stored, round(stored * per_parameter), training)

    reported = published_original(kind, layout.sizes)
    before = None if reported is None else _as_reported(layout, reported)
    layouts = layouts_by_stage(recipe.stages, model)
    trainings = {each.name: _training(each, layouts[each.name]) for each in recipe.stages}
    time = None
    if timed:
        samples = {n: None if each is None else each.sample for n, each in trainings.items()}
        stages = [training_of(s, layouts[s.name], samples[s.name]) for s in recipe.stages]
        time = time_of(layout, stages, recipe.threads, progress.say)
    if time is not None:
        seconds = dict(zip(layouts, time.stages, strict=True))
        trainings = {
            name: training and replace(training, seconds=seconds[name].recovery)
            for name, training in trainings.items()
        }
    own = [each.data for each in recipe.stages if each.data is not None]
    return Preview(
        recipe.name,
        recipe.model,
        kind,
        stage("original", layout, before),
        tuple(stage(name, each.after, trainings[name]) for name, each in layouts.items()),
        0 if recipe.data.written is None else recipe.data.written.tokens or 0,
        not recipe.data.heldout or any(not each.heldout for each in own),
        time,
        _evaluation(recipe),
    )


def _evaluation(recipe: Recipe) -> PreviewEvaluation | None:
    spec = recipe.evaluate
    if spec is None:
        return None
    return PreviewEvaluation(spec.tasks, spec.limit, evaluated_stages(recipe))


def _as_reported(layout: Layout, row: Training) -> PreviewTraining:
    cost = training_flops(layout, row.sample, row.tokens)
    return PreviewTraining(row.tokens, row.objective, row.sample, cost, row)


def _training(stage: Stage, layouts: StageLayouts) -> PreviewTraining | None:
    settings, layout = stage.recover, layouts.after
    if settings is None:
        return None
    try:
        name, sample = mean_sample(settings, layout)
    except UserError as error:
        raise UserError(str(error), key=f"stages: {stage.name}: recover.objective") from None
    row = published_training(
        layout.blueprint.model_type, layout.sizes, settings.tokens, settings.row_length
    )
    if row is not None and layouts.teacher is None:
        return _as_reported(layout, row)
    cost, taught = training_flops(layout, sample, settings.tokens), 0
    if layouts.teacher is not None:
        taught = forward_flops(layouts.teacher, sample).total * settings.tokens // sample.text
    return PreviewTraining(settings.tokens, name, sample, cost + taught, None, taught)
