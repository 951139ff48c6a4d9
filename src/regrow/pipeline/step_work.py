"""The estimated work of the steps of a run, for its clock."""

from regrow.corpus.shares import DENOISER, DOMAIN
from regrow.corpus.text_files import text_files
from regrow.evaluation.speed import NEW_TOKENS, ROUNDS
from regrow.pipeline.run_plan import RunPlan
from regrow.pipeline.run_stage import RunStage
from regrow.pipeline.steps import REFERENCES, SPEED, WRITE, reference_keys
from regrow.pipeline.task_steps import EVALUATE
from regrow.pipeline.time_left import StepWork
from regrow.training.mixing.mixture_settings import DENOISERS


def step_work(plan: RunPlan) -> list[StepWork]:
    """The estimated work of all steps of a run, in the units of `GUESSED_RATES`."""
    recipe, original = plan.recipe, plan.original.layout.parameters()
    texts = sum(_bytes(plan, name) for name in recipe.heldout) / 4  # some 4 bytes a token
    answers = len(recipe.prompts) * recipe.answer_tokens
    found = []
    for step in filter(plan.is_wanted, plan.steps.values()):
        name, stage = step.name, plan.stages.get(step.stage)
        count = original if stage is None else stage.parameters
        if step.kind in ("measure", "measure-cut"):
            found.append(StepWork(name, "forward", 2 * count * texts))
        elif name == REFERENCES:
            found.append(StepWork(name, "forward", 2 * count * _reference_tokens(plan)))
        elif name == WRITE:
            assert recipe.data.written is not None
            tokens = recipe.data.written.tokens or 0
            found.append(StepWork(name, "write", float(tokens)))
        elif step.kind == "carve":
            found.append(_cut_work(name, plan.stages[step.stage], original))
        elif step.kind == "recover":
            trained = plan.stages[step.stage]
            flops = trained.flops_per_token * trained.recovery.tokens
            found.append(StepWork(name, "train", flops))
        elif step.kind == "answers":
            found.append(StepWork(name, "generate", float(answers * count)))
        elif name == SPEED:
            models = [plan.stages[each.name].parameters for each in recipe.stages]
            texts_each = (NEW_TOKENS + 1) * (ROUNDS + 1)
            found.append(StepWork(name, "generate", float(texts_each * sum(models, original))))
        elif step.kind == EVALUATE:
            assert plan.tasks is not None
            found.append(StepWork(name, "forward", 2.0 * count * plan.tasks.tokens))
    return found


def _bytes(plan: RunPlan, heldout: str) -> int:
    """About the bytes of a held-out text, whose file may not be written yet if it is put aside."""
    if heldout in plan.put_aside:
        return plan.put_aside[heldout].part.characters
    files = text_files(plan.recipe.heldout[heldout].path)
    return sum(file.stat().st_size for file in files)


def _cut_work(step: str, stage: RunStage, original: int) -> StepWork:
    """A cut of layers or widths mostly scores and refits, on the calibration text.

    A pass that trains each layer of the result alone takes about as long per parameter.

    `original`: the parameters of the original.
    """
    cut = stage.layouts.cut
    if cut is None or cut.only_vocabulary:
        return StepWork(step, "carve", 16.0 * stage.parameters)
    trained = cut.spec.refit_passes * stage.parameters
    return StepWork(step, "score", 4.0 * cut.spec.calibration_tokens * (original + trained))


def _reference_tokens(plan: RunPlan) -> float:
    """Tokens that reference losses are measured on, summed over the components."""
    components = {DENOISER: len(DENOISERS), DOMAIN: len(plan.recipe.data.sources)}
    measured = {
        key: components[kind] * settings.mixture_tokens
        for settings in plan.recoveries()
        for key, kind in reference_keys(settings).items()
    }
    return float(sum(measured.values()))
