"""What a plan may leave: a number of parameters, of bytes, or of tokens per second.

A budget counts the sizes of one model, or of many at once, exactly for parameters and bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from regrow.architectures import LabelledTensor, Layout
from regrow.architectures.dims import Dims
from regrow.checkpoint.config_only import stored_dtype
from regrow.checkpoint.header import DTYPE_BYTES
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError

Sizes = Mapping[str, Any]
"""Sizes by axis: a number each, or an array [models] each. Absent axes keep their size."""
BudgetKey = Literal["params", "bytes", "tokens_per_second"]


@dataclass(frozen=True)
class Term:
    """All tensors of one pattern: their dimensions, the axes that number them (layer and expert),
    and what a value counts."""

    dims: Dims
    repeats: tuple[str, ...]
    weight: int


def terms_of(
    tensors: Mapping[str, LabelledTensor], weights: Mapping[str, int] | None = None
) -> list[Term]:
    """A term for each pattern among these tensors.

    `weights`: what a value of each tensor counts, by name; None counts 1. If the tensors of a
    pattern differ, the largest is taken.
    """
    found: dict[str, Term] = {}
    for name, tensor in tensors.items():
        weight = 1 if weights is None else weights[name]
        known = found.get(tensor.pattern)
        most = weight if known is None else max(weight, known.weight)
        found[tensor.pattern] = Term(tensor.dims, tensor.repeats, most)
    return list(found.values())


def total(layout: Layout, terms: list[Term], sizes: Sizes) -> Any:
    """The sum of some terms at these sizes: a number, or an array [models]."""
    merged: dict[str, Any] = {**layout.sizes, **sizes}
    found: Any = 0
    for term in terms:
        count: Any = term.weight
        for axis in term.repeats:
            count = count * merged[axis]
        for dimension in term.dims.dimensions:
            count = count * dimension.size(merged)
        found = found + count
    return found


@dataclass(frozen=True)
class Budget:
    """The most that a model may need.

    Attributes:
        key: What is limited, as the user names it.
        limit: The largest amount that is allowed: parameters, bytes, or seconds per token.
        amount: The amount at some sizes: a number, or an array [models].
        share: The limit as a share of what the original has, if it was given so.
    """

    key: BudgetKey
    limit: float
    amount: Callable[[Sizes], Any]
    share: float | None = None

    def shown(self, amount: float) -> str:
        """An amount in the unit of the user."""
        return f"{1 / amount:,.1f}" if self.key == "tokens_per_second" else f"{amount:,.0f}"

    def error(self, message: str) -> UserError:
        """An error that names the limit."""
        shown = self.shown(self.limit)
        given = shown if self.share is None else f"{100 * self.share:g}% ({shown})"
        return UserError(message, key=self.key, value=given)

    def too_tight(self, least: float) -> UserError:
        """The error if no sizes meet the budget. `least`: the smallest amount that was found."""
        beyond = "most" if self.key == "tokens_per_second" else "least"
        few = "much" if self.key == "tokens_per_second" else "few"
        return self.error(
            f"too {few} for this model; the {beyond} that keeps a share of every axis is "
            f"{self.shown(least)}"
        )

    def check(self) -> None:
        """Raise UserError if the uncut model meets the budget."""
        whole = self.amount({})
        if whole <= self.limit:
            raise self.error(f"the model has {self.shown(whole)} {self.unit}; ask for {self.less}")

    @property
    def unit(self) -> str:
        units = {"params": "parameters", "bytes": "bytes", "tokens_per_second": "tokens/s"}
        return units[self.key]

    @property
    def less(self) -> str:
        return "more" if self.key == "tokens_per_second" else "fewer"


def parameter_budget(layout: Layout, parameters: int) -> Budget:
    """At most so many parameters; shared ones count once."""
    terms = terms_of({tensor.name: tensor for tensor in layout.distinct_tensors})
    return Budget("params", parameters, lambda sizes: total(layout, terms, sizes))


def byte_budget(model: ModelDirectory, nbytes: int) -> Budget:
    """At most so many bytes of weights, in the dtypes in which the model stores them."""
    layout = model.layout
    if model.is_config_only:
        _, item = stored_dtype(layout)
        weights = dict.fromkeys(layout.tensors, item)
    else:
        stored = model.checkpoint.tensors
        weights = {name: DTYPE_BYTES[stored[name].dtype] for name in layout.tensors}
    terms = terms_of(layout.tensors, weights)
    return Budget("bytes", nbytes, lambda sizes: total(layout, terms, sizes))
