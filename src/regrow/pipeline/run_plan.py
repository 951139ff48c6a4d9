"""Plan a run before any work: model, texts, stages, steps, and the work of each step."""

import copy
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from regrow.checkpoint.history import history_of
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.common.progress import Progress
from regrow.corpus.reading import CONVERSATIONS
from regrow.corpus.sources import Corpus, Source, WrittenSource
from regrow.corpus.text import documents_sha256, read_documents
from regrow.evaluation.heldout_text import HeldoutText
from regrow.pipeline.conversation_checks import check_conversations, check_heldout_conversations
from regrow.pipeline.from_scratch import with_random_weights
from regrow.pipeline.ledger import Step
from regrow.pipeline.put_aside_text import PutAsideText, PutAsideTexts, with_heldout_text
from regrow.pipeline.recipe import HELDOUT, Recipe, Stage
from regrow.pipeline.recipe_checks import (
    check_adapters,
    check_apart,
    check_corpus,
    check_counted,
    check_embedding_rates,
    check_mixtures,
    check_positions,
    check_readable,
    check_shared_rows,
    check_tasks,
    check_written,
    missing_special_tokens,
    short_heldout_lines,
)
from regrow.pipeline.run_stage import RunStage, data_seed
from regrow.pipeline.shared_text import (
    check_heldout_files,
    say_shared_documents,
    trained_texts,
)
from regrow.pipeline.stage_layouts import (
    StageLayouts,
    at_once_stage,
    layouts_by_stage,
)
from regrow.pipeline.steps import (
    AT_ONCE,
    CONTROL,
    RESULTS,
    WRITTEN_FILE,
    TextHashes,
    control_settings,
    plan_steps,
    writing_facts,
)
from regrow.pipeline.task_steps import EVALUATE, RunTasks, evaluated_stages, load_tasks
from regrow.surgery.extend import ensure_tokens
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
        stages: The stages by name, and then the comparisons that were asked for.
        heldout_hashes: The hash of each held-out text by name.
        steps: The steps by name, in order, also those of comparisons that nobody asked for.
        put_aside: The parts of the training text that are held out, by the name of the text.
        tasks: The tasks on which models are evaluated; None without any.
    """

    recipe: Recipe
    recipe_text: str
    out: Path
    original: ModelDirectory
    corpus: Corpus
    stages: Mapping[str, RunStage]
    heldout_hashes: Mapping[str, str]
    steps: dict[str, Step]
    put_aside: PutAsideTexts = field(default_factory=dict)
    tasks: RunTasks | None = None

    def is_wanted(self, step: Step) -> bool:
        """Whether a step is part of the run; not if its comparison was not asked for.

        Nor is the evaluation of a stage if only the last one is evaluated.
        """
        if step.kind == EVALUATE:
            return step.stage in evaluated_stages(self.recipe)
        return step.stage in self.stages or step.stage not in (CONTROL, AT_ONCE)

    def comparisons(self) -> list[RunStage]:
        """The comparisons that were asked for."""
        return [each for each in self.stages.values() if each.is_comparison]

    def recoveries(self) -> list[RecoverySettings]:
        """The recoveries of all stages and comparisons."""
        specs = (stage.spec for stage in self.stages.values())
        return [spec.recover for spec in specs if spec.recover is not None]


def plan_run(recipe: Recipe, out: Path, options: RunOptions, progress: Progress) -> RunPlan:
    """Plan the run of a recipe in the directory `out`, and check all that needs no training.

    If it was not done before, the original is downloaded or converted, its weights are drawn at
    random (`options.from_scratch`), and missing special tokens are added to it. A held-out text
    that is put aside is not written yet.

    Raises UserError if the recipe does not fit its model or texts.
    """
    check_readable(recipe)
    if not recipe.reads_conversations:
        for line in short_heldout_lines(recipe.data, recipe.reading):
            progress.say(line)
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
    bind = partial(_bind, recipe, out, aside, options.compare)
    corpus, stages, comparisons = bind(original)
    check_adapters(recipe.stages, original, from_scratch=options.from_scratch)
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
    check_corpus(corpus, tokenizer, [*stages.values()], original.layout.sizes["vocab"])
    check_tasks(recipe, tokenizer, original.config, corpus, aside.keys())
    specs = [stage.spec for stage in stages.values()]
    check_positions(specs, original, tokenizer)
    check_shared_rows(specs, original)
    check_counted(corpus, tokenizer, specs)
    corpora = {name: stage.corpus for name, stage in stages.items()}
    check_conversations(recipe, corpora, tokenizer, original.config)
    check_heldout_conversations(recipe, aside, tokenizer, original.config)
    for texts in compared:
        say_shared_documents(texts, progress.say)
    if missing:
        original = ensure_tokens(original, missing, out / "original", progress.say)
        corpus, stages, comparisons = bind(original)
    hashes = {name: _heldout_hash(text, aside.get(name)) for name, text in recipe.heldout.items()}
    own = {s.name: s.corpus.identity for s in stages.values() if s.spec.data is not None}
    steps = plan_steps(
        recipe,
        _model_hashes(original),
        TextHashes(corpus.identity, hashes, own),
        hashlib.sha256(options.recipe_text.encode()).hexdigest(),
        comparisons,
        "" if tasks is None else tasks.content,
    )
    return RunPlan(
        recipe=recipe, recipe_text=options.recipe_text, out=out, original=original, corpus=corpus,
        stages=stages, heldout_hashes=hashes, steps=steps, put_aside=aside, tasks=tasks,
    )  # fmt: skip


def _bind(
    recipe: Recipe,
    out: Path,
    aside: PutAsideTexts,
    compare: Collection[str],
    original: ModelDirectory,
) -> tuple[Corpus, dict[str, RunStage], list[Stage]]:
    """The training text, the stages with the comparisons that are asked for, and all possible ones.

    Raises UserError if a cut, a comparison that is asked for, or a training is not possible.
    """
    layout = original.layout
    where = str(original.path / "config.json")
    check_on_meta(original.checkpoint.config, layout.blueprint, layout.shapes, where)
    layouts = layouts_by_stage(recipe.stages, original)
    comparisons = _comparisons(recipe, layouts, compare)
    asked = [stage for stage in comparisons if stage.name in compare]
    for stage in asked:
        try:
            layouts |= layouts_by_stage([stage], original)
        except UserError as error:
            raise error.at(f"compare.{stage.name}") from None
    remains = aside[HELDOUT].part.remains if HELDOUT in aside else {}
    corpus = _corpus(recipe, original, out, remains)
    conversations = _conversations(recipe, aside)
    stages = {
        stage.name: RunStage(
            stage, layouts[stage.name], conversations.get(stage.name, corpus),
            data_seed(recipe, stage.name),
        )
        for stage in (*recipe.stages, *asked)
    }  # fmt: skip
    check_mixtures(recipe, [*stages.values()], layout.sizes["vocab"])
    return corpus, stages, comparisons


def _comparisons(
    recipe: Recipe, layouts: Mapping[str, StageLayouts], compare: Collection[str]
) -> list[Stage]:
    """The stages of all possible comparisons.

    `layouts`: of the stages. `compare`: the comparisons that are asked for.

    Raises UserError if one of them is not possible.
    """
    settings = control_settings(recipe)
    # The control trains the original, which cannot be its own teacher.
    untaught = settings and settings.model_copy(update={"distill": None})
    control = None if untaught is None else Stage(name=CONTROL, recover=untaught)
    possible = {CONTROL: control, AT_ONCE: at_once_stage(recipe, layouts)}
    for name in compare:
        if name not in possible:
            raise UserError(f"{' or '.join(possible)} is wanted, not {name!r}", key="compare")
        if possible[name] is None:
            raise UserError(_NOTHING_TO_COMPARE[name], key=f"compare.{name}")
    return [stage for stage in possible.values() if stage is not None]


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


def _conversations(recipe: Recipe, aside: PutAsideTexts) -> dict[str, Corpus]:
    """The conversations of stages that have their own, by stage."""
    remains = {each.stage: each.part.remains for each in aside.values()}
    found = {}
    for stage in recipe.stages:
        if stage.data is not None:
            source = Source.model_validate({"path": stage.data.train})
            kept = remains.get(stage.name, {})
            found[stage.name] = Corpus((source,), reading=CONVERSATIONS, remains=kept)
    return found


def _heldout_hash(text: HeldoutText, aside: PutAsideText | None) -> str:
    """A hash of a held-out text, and of how it is read."""
    if aside is not None:
        found = aside.part.sha256
    else:
        found = documents_sha256(read_documents(text.path, text.reading))
    return identity_of("conversations", text=found) if text.reading.conversations else found
