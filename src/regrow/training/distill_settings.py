"""Settings of distillation in a recovery."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from regrow.common.fields import Share


class DistillSettings(BaseModel):
    """Distillation; in a recipe `distill: {from: original}`.

    The loss is in `regrow.objectives.losses.distillation`.

    Attributes:
        teacher: `original`, the model that the recipe begins with, or `previous`, the model that
            the stage cuts. In a recipe its key is `from`.
        weight: Weight of the teacher's loss; the loss on the text has weight 1 - `weight`.
        temperature: Both distributions are compared at this temperature; above 1, tokens that the
            teacher finds unlikely count for more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    teacher: Literal["original", "previous"] = Field(alias="from")
    weight: Share = 0.5
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _as_written(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The settings under the keys of a recipe."""
        return {
            "from": self.teacher,
            **{k: v for k, v in serialise(self).items() if k != "teacher"},
        }

    def words(self) -> str:
        """A short description of the distillation."""
        teacher = {"original": "the original", "previous": "the previous model"}[self.teacher]
        return (
            f"distilled from {teacher} (weight {self.weight:g}, temperature {self.temperature:g})"
        )
