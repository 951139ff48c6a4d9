"""A stage of a run, with all that follows from its place in the recipe."""

from dataclasses import dataclass

from regrow.common.random_stream import random_stream
from regrow.corpus.sources import Corpus
from regrow.pipeline.recipe import Recipe, Stage
from regrow.pipeline.stage_layouts import StageLayouts
from regrow.pipeline.steps import AT_ONCE, CONTROL
from regrow.training.cost import flops_per_token
from regrow.training.settings import RecoverySettings


@dataclass(frozen=True)
class RunStage:
    """A stage of the recipe, or of a comparison.

    Attributes:
        spec: What it cuts and trains, as in the recipe.
        layouts: The layouts of its models.
        corpus: What its recovery is trained on.
        seed: The seed of its data order.
    """

    spec: Stage
    layouts: StageLayouts
    corpus: Corpus
    seed: int

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_comparison(self) -> bool:
        """Whether it is a comparison (control, at-once), which no recipe names."""
        return self.name in (CONTROL, AT_ONCE)

    @property
    def recovery(self) -> RecoverySettings:
        """The settings of its recovery, which it must have."""
        assert self.spec.recover is not None
        return self.spec.recover

    @property
    def parameters(self) -> int:
        """Parameters of the model that it makes."""
        return self.layouts.after.parameters()

    @property
    def trained_parameters(self) -> int:
        """Parameters that its recovery trains, for which a checkpoint has a weight and two moments.

        All of the model, or those of the adapters of LoRA: two matrices beside each of a layer, but
        for those of experts and routers.
        Without a blueprint the matrices are not known, so all of the model.
        """
        lora, layout = self.recovery.lora, self.layouts.after
        if lora is None or layout.blueprint.vocabulary_only:
            return self.parameters
        return sum(
            layout.sizes[tensor.layer[0]] * lora.rank * sum(tensor.dims.shape(layout.sizes))
            for tensor in {each.pattern: each for each in layout.tensors.values()}.values()
            if tensor.layer is not None
            and not tensor.is_of_experts
            and len(tensor.dims.dimensions) == 2
            and (lora.targets is None or tensor.pattern.split(".")[-2] in lora.targets)
        )

    @property
    def vocabulary(self) -> int:
        """The size of the vocabulary of the model that it makes."""
        return self.layouts.after.sizes["vocab"]

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of its recovery, with those of a teacher, per token of text."""
        return flops_per_token(self.recovery, self.layouts.after, self.layouts.teacher)


def data_seed(recipe: Recipe, stage: str) -> int:
    """The seed of a stage's data order: another one for each stage, so that orders differ.

    The only stage of a recipe takes the recipe's seed.
    """
    if [each.name for each in recipe.stages] == [stage]:
        return recipe.seed
    return int(random_stream(recipe.seed, f"stage {stage}", 0).random_raw() >> 33)
