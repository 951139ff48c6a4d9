"""What a run will do, known before any work: models, texts, stages, steps, and the work of each."""

import copy
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from regrow.architectures import Layout
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.resolve import resolve_model
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.common.random_stream import random_stream
from regrow.corpus.sources import Corpus
from regrow.corpus.text import documents_sha256, read_documents
from regrow.pipeline.from_scratch import with_random_weights
from regrow.pipeline.ledger import Step
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.recipe_checks import (
    at_once,
    check_corpus,
    check_mixtures,
    check_positions,
    check_readable,
    check_tasks,
    layouts_by_stage,
    tokens_wanted,
)
from regrow.pipeline.run_checks import check_apart
from regrow.pipeline.steps import (
    AT_ONCE,
    CONTROL,
    REFERENCES,
    control_settings,
    plan_steps,
    reference_keys,
    teacher_names,
)
from regrow.pipeline.time_left import Piece
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
        recipe_text: As it was written, for the ledger.
        compare: What else is trained on the same tokens: `control`, the original; `at-once`, the
            original with all cuts made in one.
        redo: Where the recipe changed, do again what that invalidates; without it a change is an
            error.
        from_scratch: Begin with random weights, of which the model may then have none.
    """

    recipe_text: str = ""
    compare: Collection[str] = ()
    redo: bool = False
    from_scratch: bool = False


@dataclass(frozen=True)
class RunPlan:
    """A recipe, and what follows from it and from the files that it names.

    Attributes:
        out: Directory of the run.
        original: The model that is cut, with the tokens that its objectives need.
        stages: By name, those of comparisons too, asked for or not.
        comparisons: Those that were asked for.
        parameters: Of each stage's model, by name, and of "original".
        teachers: The stage whose model teaches another, by the other's name.
        heldout: Hash of each held-out text.
        steps: By name, in order.
    """

    recipe: Recipe
    recipe_text: str
    out: Path
    original: ModelDirectory
    corpus: Corpus
    stages: Mapping[str, Stage]
    comparisons: list[Stage]
    parameters: Mapping[str, int]
    teachers: Mapping[str, str]
    heldout: Mapping[str, str]
    steps: dict[str, Step]

    def is_wanted(self, step: Step) -> bool:
        """Not where it belongs to a comparison that nobody asked for."""
        asked = {stage.name for stage in self.comparisons}
        return step.stage not in (CONTROL, AT_ONCE) or step.stage in asked

    def recoveries(self) -> list[RecoverySettings]:
        return [stage.recover for stage in self.stages.values() if stage.recover is not None]

    def data_seed(self, stage: str) -> int:
        """Each stage goes through the text in an order of its own; a single one in the seed's."""
        if [each.name for each in self.recipe.stages] == [stage]:
            return self.recipe.seed
        return int(random_stream(self.recipe.seed, f"stage {stage}", 0).random_raw() >> 33)

    def count(self, stage: str) -> int:
        """Parameters of a stage's model; of the original for all else."""
        return self.parameters.get(stage, self.parameters["original"])

    def teacher_count(self, stage: str) -> int:
        """Parameters of the model that a stage learns from; 0 where there is none."""
        settings = self.stages[stage].recover
        if settings is None or settings.distill is None:
            return 0
        return self.count(self.teachers.get(stage, "original"))

    def flops_per_token(self, stage: str) -> float:
        """Of training on one token of text, some."""
        return 6.0 * self.count(stage) + 2.0 * self.teacher_count(stage)

    def pieces(self) -> list[Piece]:
        """Work of all steps, in operations, bytes or seconds."""
        texts = sum(path.stat().st_size for path in self.recipe.data.heldout.values()) / 4
        pieces = []
        for step in filter(self.is_wanted, self.steps.values()):
            name, count = step.name, self.count(step.stage)
            if step.kind in ("measure", "measure-cut"):
                pieces.append(Piece(name, "forward", 2 * count * texts))
            elif name == REFERENCES:
                pieces.append(Piece(name, "forward", 2 * count * self._followed_tokens()))
            elif step.kind == "carve":
                pieces.append(Piece(name, "write", 16.0 * count))
            elif step.kind == "recover":
                settings = self.stages[step.stage].recover
                assert settings is not None
                work = self.flops_per_token(step.stage) * settings.tokens
                pieces.append(Piece(name, "train", work))
        answers = len(self.recipe.prompts) * self.recipe.answer_tokens / 20
        pieces += [
            Piece("original/speak", "fixed", answers), Piece("result/samples", "fixed", answers),
        ]  # fmt: skip
        return pieces

    def _followed_tokens(self) -> float:
        """Text that references are measured on, once for each component."""
        parts = {"denoiser": len(DENOISERS), "domain": len(self.recipe.data.sources)}
        measured = {
            key: parts[kind] * settings.mixture_tokens
            for settings in self.recoveries()
            for key, kind in reference_keys(settings).items()
        }
        return float(sum(measured.values()))


def make_plan(recipe: Recipe, out: Path, options: RunOptions, progress: Progress) -> RunPlan:
    """The plan of `regrow.pipeline.run.run`, whose arguments these are.

    Fetches or converts the original, draws its weights where it begins with random ones, and adds
    the tokens that it lacks, where that is not done.

    Raises UserError at whatever cannot be.
    """
    check_readable(recipe.data)
    corpus = Corpus(recipe.data.sources)
    original = ModelDirectory(resolve_model(recipe.model, out / "original", progress.say))
    check_apart(out, original.path)
    if options.from_scratch:
        original = with_random_weights(original, out / "original", recipe.seed)
    layouts = _layouts(recipe, original)
    known, trained, vocabularies = _trained(recipe, original.layout, layouts, options.compare)
    tokenizer = copy.deepcopy(original.tokenizer)
    both = bool(original.config.is_encoder_decoder)
    wanted = tokens_wanted(recipe, tokenizer.get_vocab(), is_encoder_decoder=both)
    tokenizer.add_tokens(list(wanted), special_tokens=True)  # as it is going to be
    check_corpus(corpus, tokenizer, trained, vocabularies)
    check_tasks(recipe, tokenizer, original.config, corpus)
    if wanted:
        original = ensure_tokens(original, wanted, out / "original", progress.say)
        layouts = _layouts(recipe, original)
        known, trained, vocabularies = _trained(recipe, original.layout, layouts, options.compare)
    last = layouts[recipe.stages[-1].name]
    parameters = {name: each.parameters() for name, each in layouts.items()}
    parameters |= {"original": original.layout.parameters(), AT_ONCE: last.parameters()}
    heldout = {
        name: documents_sha256(read_documents(path)) for name, path in recipe.data.heldout.items()
    }
    steps = plan_steps(
        recipe,
        {"weights": original.checkpoint.fingerprint, "files": original.files_sha256},
        corpus.identity,
        heldout,
        hashlib.sha256(options.recipe_text.encode()).hexdigest(),
        known,
    )
    return RunPlan(
        recipe=recipe, recipe_text=options.recipe_text, out=out, original=original, corpus=corpus,
        stages={stage.name: stage for stage in (*recipe.stages, *known)},
        comparisons=[stage for stage in known if stage.name in options.compare],
        parameters=parameters, teachers=teacher_names(recipe.stages), heldout=heldout, steps=steps,
    )  # fmt: skip


def _layouts(recipe: Recipe, original: ModelDirectory) -> dict[str, Layout]:
    """The layout after each stage."""
    layout = original.layout
    where = str(original.path / "config.json")
    check_on_meta(original.checkpoint.config, layout.blueprint, layout.shapes, where)
    return layouts_by_stage(recipe, original)


def _trained(
    recipe: Recipe, layout: Layout, layouts: Mapping[str, Layout], compare: Collection[str]
) -> tuple[list[Stage], list[Stage], dict[str, int]]:
    """What stages can be compared with; stages, with what they are to be; vocabularies by name.

    Raises UserError where a comparison or a training of these cannot be.
    """
    last = layouts[recipe.stages[-1].name]
    settings = control_settings(recipe)
    # Of the original there is no teacher but itself.
    alone = settings and settings.model_copy(update={"distill": None})
    control = None if alone is None else Stage(name=CONTROL, recover=alone)
    possible = {CONTROL: control, AT_ONCE: at_once(recipe, layout, last)}
    for name in compare:
        if possible[name] is None:
            raise UserError(_NOTHING_TO_COMPARE[name], key=f"compare.{name}")
    known = [stage for stage in possible.values() if stage is not None]
    trained = [*recipe.stages, *(stage for stage in known if stage.name in compare)]
    vocabularies = {name: each.sizes["vocab"] for name, each in layouts.items()}
    vocabularies |= dict.fromkeys(("original", CONTROL), layout.sizes["vocab"])
    vocabularies[AT_ONCE] = last.sizes["vocab"]
    check_positions(trained, layout.sizes.get("position"))
    check_mixtures(recipe, trained, vocabularies)
    return known, trained, vocabularies
