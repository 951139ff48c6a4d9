"""The options of `regrow plan`, as users give them."""

from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.fields import Number, Share, Size, Strict, refuse_bool
from regrow.common.quantities import parse_bytes, parse_share
from regrow.surgery.budget import Budget, byte_budget, parameter_budget


def _is_share(value: Any) -> bool:
    """Whether a limit is a share of what the original has: `50%` or 0.5."""
    if isinstance(value, str):
        return value.rstrip().endswith("%") or (parse_share(value) or 1) < 1
    return isinstance(value, float) and 0 < value <= 1


def _below_whole(share: float) -> float:
    if not share < 1:
        raise ValueError(f"a share below 100% is wanted, such as 50%, not {share:.0%}")
    return share


def _read_bytes(value: Any) -> Any:
    nbytes = parse_bytes(value) if isinstance(value, str) else None
    return value if nbytes is None else nbytes


_Part = Annotated[Share, AfterValidator(_below_whole), Tag("share")]
_Kind = Discriminator(lambda value: "share" if _is_share(value) else "number")
ParameterLimit = Annotated[Annotated[Size, Tag("number")] | _Part, _Kind]
"""A number of parameters, or a share of those of the original: 67M, 50%, 0.5."""
ByteLimit = Annotated[Annotated[Size, BeforeValidator(_read_bytes), Tag("number")] | _Part, _Kind]
"""A number of bytes, or a share of those of the original: 1.2GB, 50%, 0.5."""


class PlanSpec(Strict):
    """How small or fast a plan makes a model, and how it measures the costs.

    Attributes:
        params: The most parameters of the result, or a share of the original's (`50%`
            or 0.5).
        bytes: The most bytes of its weights, or a share of the original's.
        tokens_per_second: The least speed of greedy generation of one sequence on this machine,
            in float32.
        calibration_tokens: Number of tokens of text on which scores are computed, and matrices
            refitted. The recipe's cut is refitted on at least as many (docs/plan.md).
        candidates: Of the best predicted sizes, so many are cut and measured.
        seed: Decides which part of the text is used.
        special_tokens: Whether the names of special tokens in the text stand for the tokens, also
            in the recipe.
    """

    params: ParameterLimit | None = None
    bytes: ByteLimit | None = None
    tokens_per_second: Annotated[float, BeforeValidator(refuse_bool), Field(gt=0)] | None = None
    calibration_tokens: Size = 16_384
    candidates: Size = 3
    seed: Number = 0
    special_tokens: bool = Field(default=False, strict=True)

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
        limit = self.bytes if self.params is None else self.params
        if limit is None:
            return None
        if self.params is None:
            budget, whole = byte_budget(model, 0), model.weight_bytes
        else:
            budget, whole = parameter_budget(model.layout, 0), model.layout.parameters()
        is_share = isinstance(limit, float)
        budget = replace(
            budget, limit=int(limit * whole) if is_share else limit,
            share=limit if is_share else None,
        )  # fmt: skip
        budget.check()
        return budget
