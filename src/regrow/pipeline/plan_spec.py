"""The options of `regrow plan`, as users give them."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.fields import Number, Size, Strict, read_as, refuse_bool
from regrow.common.quantities import nbytes, share
from regrow.surgery.budget import Budget, byte_budget, parameter_budget


def _percent(text: str) -> str:
    try:
        is_share = text.endswith("%") and share("", text) < 1
    except UserError:
        is_share = False
    if not is_share:
        raise ValueError(f"a share below 100% is wanted, such as 50%, not {text!r}")
    return text


def _kind(value: Any) -> str:
    return "share" if isinstance(value, str) and value.endswith("%") else "number"


_ShareText = Annotated[str, AfterValidator(_percent), Tag("share")]
_Bytes = Annotated[
    int, BeforeValidator(read_as(nbytes, "a size such as 5GB or 500MB")), Field(gt=0)
]
Limit = Annotated[Annotated[Size, Tag("number")] | _ShareText, Discriminator(_kind)]
"""A number, or a share of what the original has: `50%`."""
ByteLimit = Annotated[Annotated[_Bytes, Tag("number")] | _ShareText, Discriminator(_kind)]
"""Bytes, or a share of what the original has."""


class PlanSpec(Strict):
    """How small or fast a plan makes a model, and how it measures the costs.

    Attributes:
        params: The most parameters of the result, or a share of the original's (`50%`).
        bytes: The most bytes of its weights, or a share of the original's.
        tokens_per_second: The least speed of greedy generation of one sequence on this machine,
            in float32.
        calibration_tokens: Number of tokens of text on which scores are computed, and matrices
            refitted.
        candidates: Of the best predicted sizes, so many are cut and measured.
        seed: Decides which part of the text is used.
    """

    params: Limit | None = None
    bytes: ByteLimit | None = None
    tokens_per_second: Annotated[float, BeforeValidator(refuse_bool), Field(gt=0)] | None = None
    calibration_tokens: Size = 16_384
    candidates: Size = 3
    seed: Number = 0

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [self.params, self.bytes, self.tokens_per_second]
        if sum(each is not None for each in given) != 1:
            raise ValueError("give params, bytes or tokens_per_second, one of the three")
        return self

    def budget(self, model: ModelDirectory) -> Budget | None:
        """The budget for a model; None if a speed is wanted.

        Raises UserError if the model meets it without a cut.
        """
        if self.params is not None:
            whole = model.layout.parameters()
            budget = parameter_budget(model.layout, _resolved(self.params, whole))
        elif self.bytes is not None:
            budget = byte_budget(model, _resolved(self.bytes, model.weight_bytes))
        else:
            return None
        budget.check()
        return budget


def _resolved(limit: int | str, whole: int) -> int:
    return limit if isinstance(limit, int) else int(share("", limit) * whole)
