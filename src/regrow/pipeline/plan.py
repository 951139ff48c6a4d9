"""Plan a run before any work: model, texts, stages, steps, and the work of each step."""

import copy
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from regrow.architectures import Layout
from regrow.checkpoint.history import history_of
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.common.progress import Progress
from regrow.common.random_stream import random_stream
from regrow.corpus.reading import CONVERSATIONS
from regrow.corpus.shares import DENOISER, DOMAIN
from regrow.corpus.sources import Corpus, Source, WrittenSource
from regrow.corpus.text import documents_sha256, read_documents
from regrow.corpus.text_files import text_files
from regrow.evaluation.heldout_text import HeldoutText
from regrow.evaluation.speed import NEW_TOKENS, ROUNDS
from regrow.pipeline.conversation_checks import check_conversations, check_heldout_conversations
from regrow.pipeline.from_scratch import with_random_weights
from regrow.pipeline.heldout_text import HELDOUT, HeldOutPart, HeldOutParts, with_heldout_text
from regrow.pipeline.ledger import Step
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.recipe_checks import (
    check_adapters,
    check_apart,
    check_corpus,
    check_counted,
    check_embedding_rates,
    check_mixtures,
    check_positions,
    check_readable,
    check_tasks,
    check_written,
    missing_special_tokens,
)
from regrow.pipeline.shared_text import (
    check_heldout_files,
    say_shared_documents,
    trained_texts,
)
from regrow.pipeline.stage_layouts import at_once_stage, layouts_by_stage
from regrow.pipeline.steps import (
    AT_ONCE,
    CONTROL,
    REFERENCES,
    RESULTS,
    SPEED,
    WRITE,
    WRITTEN_FILE,
    TextHashes,
    control_settings,
    plan_steps,
    reference_keys,
    teacher_names,
    writing_facts,
)
from regrow.pipeline.task_steps import EVALUATE, RunTasks, evaluated_stages, load_tasks
from regrow.pipeline.time_left import StepWork
from regrow.surgery.cut import Cut
from regrow.surgery.extend import ensure_tokens
from regrow.training.mixing.mixture_settings import DENOISERS
from regrow.training.settings import RecoverySettings

_NOTHING_TO_COMPARE = {
    CONTROL: "the recipe recovers nothing, so there are no tokens to train the original on",
    AT_ONCE: "the recipe makes fewer than two cuts, or recovers nothing",
}


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run.

    Attributes:
        recipe_text: The text of the recipe, for the ledger.
        compare: Comparisons to train on the same tokens: `control`, the original; `at-once`, the
            original with all cuts made in one.
        redo: If the recipe changed, do again the steps that this invalidates. Without it, a changed
            recipe is an error.
        from_scratch: Start from random weights; the model then needs no weights.
    """

    recipe_text: str = ""
    compare: Collection[str] = ()
    redo: bool = False
    from_scratch: bool = False


@dataclass(frozen=True)
class RunPlan:
    """A recipe with all that follows from it and from the files that it names.

    Attributes:
        recipe: The recipe.
        recipe_text: Its text.
        out: The directory of the run.
        original: The model that is cut, with the special tokens that its objectives need.
        corpus: The training text.
        conversations: The conversations of stages that have their own, by stage.
        stages: The stages by name, with those of all possible comparisons.
        comparisons: The stages of the comparisons that were asked for.
        layouts: The layout after each stage by name, and of "original".
        teachers: The stage whose model is the teacher, by the name of the student's stage.
        heldout: The hash of each held-out text by name.
        steps: The steps by name, in order.
        put_aside: The parts of the training text that are held out, by the name of the text.
        tasks: The tasks on which models are evaluated; None without any.
    """

    recipe: Recipe
    recipe_text: str
    out: Path
    original: ModelDirectory
    corpus: Corpus
    stages: Mapping[str, Stage]
    comparisons: list[Stage]
    layouts: Mapping[str, Layout]
    teachers: Mapping[str, str]
    heldout: Mapping[str, str]
    steps: dict[str, Step]
    conversations: Mapping[str, Corpus] = field(default_factory=dict)
    put_aside: HeldOutParts = field(default_factory=dict)
    tasks: RunTasks | None = None

    def corpus_of(self, stage: str) -> Corpus:
        """What the recovery of a stage is trained on."""
        return self.conversations.get(stage, self.corpus)

    def is_wanted(self, step: Step) -> bool:
        """Whether a step is part of the run; not if its comparison was not asked for.

        Nor is the evaluation of a stage if only the last one is evaluated.
        """
        if step.kind == EVALUATE:
            return step.stage in evaluated_stages(self.recipe)
        compared = {stage.name for stage in self.comparisons}
        return step.stage not in (CONTROL, AT_ONCE) or step.stage in compared

    def recovery(self, stage: str) -> RecoverySettings:
        """The recovery of a stage that has one."""
        settings = self.stages[stage].recover
        assert settings is not None
        return settings

    def recoveries(self) -> list[RecoverySettings]:
        """The recoveries of all stages and comparisons."""
        return [stage.recover for stage in self.stages.values() if stage.recover is not None]

    def data_seed(self, stage: str) -> int:
        """The seed of a stage's data order: another one for each stage, so that orders differ.

        The only stage of a recipe takes the recipe's seed.
        """
        if [each.name for each in self.recipe.stages] == [stage]:
            return self.recipe.seed
        return int(random_stream(self.recipe.seed, f"stage {stage}", 0).random_raw() >> 33)

    def parameter_count(self, stage: str) -> int:
        """Parameters of a stage's model; for any other name, of the original."""
        return self.parameters[stage if stage in self.layouts else "original"]

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        """The number of parameters after each stage by name, and of "original"."""
        return {name: layout.parameters() for name, layout in self.layouts.items()}

    def teacher_parameters(self, stage: str) -> int:
        """Parameters of the teacher of a stage; 0 without a teacher."""
        settings = self.stages[stage].recover
        if settings is None or settings.distill is None:
            return 0
        return self.parameter_count(self.teachers.get(stage, "original"))

    def flops_per_token(self, stage: str) -> float:
        """Roughly the floating-point operations of training on one token of text."""
        return 6.0 * self.parameter_count(stage) + 2.0 * self.teacher_parameters(stage)

    def step_work(self) -> list[StepWork]:
        """The estimated work of all steps, in the units of `GUESSED_RATES`."""
        # Some 4 bytes of text a token.
        paths = [file for text in self.recipe.heldout.values() for file in text_files(text.path)]
        texts = sum(path.stat().st_size for path in paths) / 4
        answers = len(self.recipe.prompts) * self.recipe.answer_tokens
        found = []
        for step in filter(self.is_wanted, self.steps.values()):
            name, count = step.name, self.parameter_count(step.stage)
            if step.kind in ("measure", "measure-cut"):
                found.append(StepWork(name, "forward", 2 * count * texts))
            elif name == REFERENCES:
                found.append(StepWork(name, "forward", 2 * count * self._reference_tokens()))
            elif name == WRITE:
                assert self.recipe.data.written is not None
                tokens = self.recipe.data.written.tokens or 0
                found.append(StepWork(name, "write", float(tokens)))
            elif step.kind == "carve":
                found.append(self._cut_work(step))
            elif step.kind == "recover":
                flops = self.flops_per_token(step.stage) * self.recovery(step.stage).tokens
                found.append(StepWork(name, "train", flops))
            elif step.kind == "answers":
                found.append(StepWork(name, "generate", float(answers * count)))
            elif name == SPEED:
                models = [self.parameter_count(stage.name) for stage in self.recipe.stages]
                parameters = sum(models, self.parameter_count("original"))
                texts_each = (NEW_TOKENS + 1) * (ROUNDS + 1)
                found.append(StepWork(name, "generate", float(texts_each * parameters)))
            elif step.kind == EVALUATE:
                assert self.tasks is not None
                found.append(StepWork(name, "forward", 2.0 * count * self.tasks.tokens))
        return found

    def _cut_work(self, step: Step) -> StepWork:
        """A cut of layers or widths mostly scores and refits, on the calibration text.

        A pass that trains each layer of the result alone takes about as long per parameter.
        """
        cut = self.stages[step.stage].cut
        axes = {} if cut is None else cut.options if cut.cut is None else Cut.load(cut.cut).axes
        if cut is None or axes.keys() <= {"vocab_size", "vocab"}:
            return StepWork(step.name, "carve", 16.0 * self.parameter_count(step.stage))
        trained = cut.refit_passes * self.parameter_count(step.stage)
        work = cut.calibration_tokens * (self.parameter_count("original") + trained)
        return StepWork(step.name, "score", 4.0 * work)

    def _reference_tokens(self) -> float:
        """Tokens that reference losses are measured on, summed over the components."""
        components = {DENOISER: len(DENOISERS), DOMAIN: len(self.recipe.data.sources)}
        measured = {
            key: components[kind] * settings.mixture_tokens
            for settings in self.recoveries()
            for key, kind in reference_keys(settings).items()
        }
        return float(sum(measured.values()))


def make_plan(recipe: Recipe, out: Path, options: RunOptions, progress: Progress) -> RunPlan:
    """Plan the run of a recipe in the directory `out`, and check all that needs no training.

    If it was not done before, the original is downloaded or converted, its weights are drawn at
    random (`options.from_scratch`), and missing special tokens are added to it. A held-out text
    that is put aside is not written yet.

    Raises UserError if the recipe does not fit its model or texts.
    """
    check_readable(recipe)
    recipe, aside = with_heldout_text(recipe, out)
    compared = [text for text in trained_texts(recipe) if not aside.keys() & text.heldout.keys()]
    for texts in compared:
        check_heldout_files(texts)
    original = ModelDirectory(resolve_model(recipe.model, out / "original", progress.say))
    check_apart(out, original.path)
    history_of(original.path, original.layout)  # its card may be damaged
    tasks = load_tasks(recipe, progress)
    check_written(recipe.data, original)
    if options.from_scratch:
        if recipe.data.written is not None:
            raise UserError(
                "random weights cannot write a text; give a path",
                key=f"data.train: {recipe.data.written.name}",
            )
        original = with_random_weights(original, out / "original", recipe.seed)
    layouts = _layouts(recipe, original)
    trainings = _trainings(recipe, original.layout, layouts, options.compare)
    check_adapters(recipe.stages, original.layout, from_scratch=options.from_scratch)
    if options.from_scratch:
        check_embedding_rates(recipe.stages, "these are drawn at random")
    tokenizer = copy.deepcopy(original.tokenizer)
    missing = missing_special_tokens(
        recipe, tokenizer, is_encoder_decoder=bool(original.config.is_encoder_decoder)
    )
    if missing:
        check_embedding_rates(recipe.stages, f"{missing[0]} is added to the model, untrained")
    # Check with the extended tokenizer first: the model is written only for a recipe that is valid.
    tokenizer.add_tokens(list(missing), special_tokens=True)
    remains = aside[HELDOUT].part.remains if HELDOUT in aside else {}
    corpus = _corpus(recipe, original, out, remains)
    conversations = _conversations(recipe, aside)
    check_corpus(corpus, tokenizer, trainings.stages, trainings.vocabularies)
    check_tasks(recipe, tokenizer, original.config, corpus)
    check_counted(corpus, tokenizer, trainings.stages)
    by_stage = {s.name: conversations.get(s.name, corpus) for s in recipe.stages}
    check_conversations(recipe, by_stage, tokenizer, original.config)
    check_heldout_conversations(recipe, aside, tokenizer, original.config)
    for texts in compared:
        say_shared_documents(texts, progress.say)
    if missing:
        original = ensure_tokens(original, missing, out / "original", progress.say)
        corpus = _corpus(recipe, original, out, remains)
        layouts = _layouts(recipe, original)
        trainings = _trainings(recipe, original.layout, layouts, options.compare)
    comparisons = trainings.comparisons
    layouts |= {"original": original.layout, AT_ONCE: layouts[recipe.stages[-1].name]}
    heldout = {name: _heldout_hash(text, aside.get(name)) for name, text in recipe.heldout.items()}
    steps = plan_steps(
        recipe,
        _model_hashes(original),
        TextHashes(
            corpus.identity, heldout, {name: each.identity for name, each in conversations.items()}
        ),
        hashlib.sha256(options.recipe_text.encode()).hexdigest(),
        comparisons,
        "" if tasks is None else tasks.content,
    )
    return RunPlan(
        recipe=recipe, recipe_text=options.recipe_text, out=out, original=original, corpus=corpus,
        stages={stage.name: stage for stage in (*recipe.stages, *comparisons)},
        comparisons=[stage for stage in comparisons if stage.name in options.compare],
        layouts=layouts, teachers=teacher_names(recipe.stages), heldout=heldout, steps=steps,
        conversations=conversations, put_aside=aside, tasks=tasks,
    )  # fmt: skip


def _model_hashes(model: ModelDirectory) -> dict[str, str]:
    return {"weights": model.checkpoint.fingerprint, "files": model.files_sha256}


def _corpus(
    recipe: Recipe, original: ModelDirectory, out: Path, remains: Mapping[bytes, int]
) -> Corpus:
    """The training text. The part that the original writes may not exist yet.

    `remains`: as in `PutAside`, if a part is held out.
    """
    source = recipe.data.written
    if source is None:
        return Corpus(recipe.data.sources, reading=recipe.reading, remains=remains)
    identity = identity_of(
        "written", model=_model_hashes(original), results=RESULTS, seed=recipe.seed,
        **writing_facts(source),
    )  # fmt: skip
    written = {source.name: WrittenSource(out / WRITTEN_FILE, identity)}
    return Corpus(recipe.data.sources, written, recipe.reading, remains)


def _conversations(recipe: Recipe, aside: HeldOutParts) -> dict[str, Corpus]:
    """The conversations of stages that have their own, by stage."""
    remains = {each.stage: each.part.remains for each in aside.values()}
    found = {}
    for stage in recipe.stages:
        if stage.data is not None:
            source = Source.model_validate({"path": stage.data.train})
            kept = remains.get(stage.name, {})
            found[stage.name] = Corpus((source,), reading=CONVERSATIONS, remains=kept)
    return found


def _heldout_hash(text: HeldoutText, aside: HeldOutPart | None) -> str:
    """A hash of a held-out text, and of how it is read."""
    if aside is not None:
        found = aside.part.sha256
    else:
        found = documents_sha256(read_documents(text.path, text.reading))
    return identity_of("conversations", text=found) if text.reading.conversations else found


def _layouts(recipe: Recipe, original: ModelDirectory) -> dict[str, Layout]:
    """The layout after each stage, after a check that transformers builds the same shapes."""
    layout = original.layout
    where = str(original.path / "config.json")
    check_on_meta(original.checkpoint.config, layout.blueprint, layout.shapes, where)
    return layouts_by_stage(recipe, original)


@dataclass(frozen=True)
class _Trainings:
    """What a run trains.

    Attributes:
        comparisons: The stages of all possible comparisons.
        stages: The stages of the recipe, and of the comparisons that were asked for.
        vocabularies: Vocabulary sizes by stage and of "original".
    """

    comparisons: list[Stage]
    stages: list[Stage]
    vocabularies: dict[str, int]


def _trainings(
    recipe: Recipe, layout: Layout, layouts: Mapping[str, Layout], compare: Collection[str]
) -> _Trainings:
    """The stages that are trained. Raises UserError if a comparison or a training is not possible.

    `layout`: of the original. `layouts`: after each stage.
    """
    last = layouts[recipe.stages[-1].name]
    settings = control_settings(recipe)
    # The control trains the original, which cannot be its own teacher.
    untaught = settings and settings.model_copy(update={"distill": None})
    control = None if untaught is None else Stage(name=CONTROL, recover=untaught)
    possible = {CONTROL: control, AT_ONCE: at_once_stage(recipe, layout, last)}
    for name in compare:
        if name not in possible:
            raise UserError(f"{' or '.join(possible)} is wanted, not {name!r}", key="compare")
        if possible[name] is None:
            raise UserError(_NOTHING_TO_COMPARE[name], key=f"compare.{name}")
    comparisons = [stage for stage in possible.values() if stage is not None]
    stages = [*recipe.stages, *(stage for stage in comparisons if stage.name in compare)]
    vocabularies = {name: each.sizes["vocab"] for name, each in layouts.items()}
    vocabularies |= dict.fromkeys(("original", CONTROL), layout.sizes["vocab"])
    vocabularies[AT_ONCE] = last.sizes["vocab"]
    check_positions(stages, layout.sizes.get("position"))
    check_mixtures(recipe, stages, vocabularies)
    return _Trainings(comparisons, stages, vocabularies)
