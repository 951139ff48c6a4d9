"""From whom a recovery learns beside the text, and how much."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class DistillSettings(BaseModel):
    """Distillation; in a recipe `distill: {from: original}`.

    The loss is in `regrow.objectives.losses.distillation`.

    Attributes:
        teacher: `original`, the model that the recipe begins with, or `previous`, the one that the
            stage cuts. In a recipe its key is `from`.
        weight: Of the teacher in the loss; the text has the rest, and at 1 nothing.
        temperature: At which both distributions are compared; above 1 what the teacher thinks
            unlikely counts for more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    teacher: Literal["original", "previous"] = Field(alias="from")
    weight: float = Field(default=0.5, gt=0, le=1)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _as_written(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """By the keys of a recipe."""
        return {
            "from": self.teacher,
            **{k: v for k, v in serialise(self).items() if k != "teacher"},
        }

    def words(self) -> str:
        """How it is learned, in half a line."""
        whom = {"original": "the original", "previous": "the previous model"}[self.teacher]
        return f"distilled from {whom} (weight {self.weight:g}, temperature {self.temperature:g})"
