"""A blueprint bound to one checkpoint: sizes, labelled tensors, and which sizes are accepted."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from regrow.architectures.dims import Dims
from regrow.architectures.schema import (
    AtLeast,
    Blueprint,
    Divides,
    Fold,
    KeepsQuotient,
    Quotient,
    axis_kind,
)
from regrow.common.errors import UserError

_PLACE = re.compile(r"\{([a-z_.]+)\}")


@dataclass(frozen=True)
class LabelledTensor:
    """A tensor of the checkpoint with the axes of its dimensions.

    `name`: in the file. `parameter`: the name of the parameter; the two differ where transformers
    maps names on load. `layer`: the layer axis and the number of the layer; None outside layers.
    `expert`: the expert axis and the number of the expert, of a tensor of one expert.
    """

    name: str
    parameter: str
    pattern: str
    dims: Dims
    shape: tuple[int, ...]
    layer: tuple[str, int] | None = None
    expert: tuple[str, int] | None = None

    @property
    def repeats(self) -> tuple[str, ...]:
        """The axes that number the tensors of its pattern."""
        return tuple(each[0] for each in (self.layer, self.expert) if each is not None)

    @property
    def is_of_experts(self) -> bool:
        """Whether it belongs to an expert, or to the router that chooses among them."""
        return self.expert is not None or any(axis_kind(n) == "expert" for n in self.dims.names)

    def renamed(self, index: int, expert: int = 0) -> str:
        """The name in the file of the same tensor in another layer, and there of another expert."""
        if self.layer is None:
            return self.name
        name = numbered(self.pattern, self.layer[0], index)
        return name if self.expert is None else numbered(name, self.expert[0], expert)


@dataclass(frozen=True)
class Layout:
    """A blueprint with the sizes and tensors of one checkpoint.

    `sizes`: of all axes and fixed sizes, by name. `tensors`: by name, in the order of the file.
    `ignored`: names of tensors that the class ignores; a cut drops them. `tied`: whether the head
    shares the embedding.
    """

    blueprint: Blueprint
    config: Mapping[str, Any]
    sizes: Mapping[str, int]
    tensors: Mapping[str, LabelledTensor]
    ignored: tuple[str, ...]
    tied: bool

    @cached_property
    def _present(self) -> dict[str, Dims]:
        """Patterns with a parameter in this checkpoint."""
        present: dict[str, Dims] = {}
        for tensor in self.distinct_tensors:
            present.setdefault(tensor.pattern, tensor.dims)
        return present

    @cached_property
    def distinct_tensors(self) -> tuple[LabelledTensor, ...]:
        """The tensors that are parameters; one that is stored under several names counts once."""
        head = self.blueprint.head
        shared = {*head.aliases, *((head.weight,) if self.tied else ())}
        others = shared if self._holds(head.embedding) else set()
        others = others.union(self.blueprint.buffers)
        return tuple(each for each in self.tensors.values() if each.parameter not in others)

    def written_name(self, tensor: LabelledTensor) -> str:
        """The name of a tensor in the files of a result, where layers stay.

        It is that in the files of the source. Only an embedding that is stored there under another
        name of a tied tensor gets its own.
        """
        own = self.blueprint.renames.get(tensor.name, tensor.name)
        return tensor.name if own == tensor.parameter else tensor.parameter

    def _holds(self, parameter: str) -> bool:
        return any(t.parameter == parameter for t in self.tensors.values())

    def parameters(self, sizes: Mapping[str, int] | None = None) -> int:
        """Number of parameters at the given sizes (absent axes keep theirs), shared ones once."""
        return sum(count for _, _, count in self._counts(sizes or {}))

    def _counts(self, sizes: Mapping[str, int]) -> Iterator[tuple[str, Dims, int]]:
        """Each pattern with its dimensions, and the parameters of all its tensors."""
        merged = {**self.sizes, **sizes}
        for pattern, dims in self._present.items():
            tensors = prod(merged[each] for each in repeated_axes(pattern))
            yield pattern, dims, tensors * prod(dims.shape(merged))

    def parameters_by_part(self, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
        """Number of parameters of embedding, head, attention and ffn, and in `norms` those of norms
        and of biases along hidden.

        A blueprint of the vocabulary alone counts all but embedding and head as `other`.
        """
        parts = dict.fromkeys(("embedding", "attention", "ffn", "norms", "other", "head"), 0)
        for pattern, dims, count in self._counts(sizes or {}):
            parts[self._part(pattern, dims)] += count
        return {part: count for part, count in parts.items() if count}

    def _part(self, pattern: str, dims: Dims) -> str:
        kinds = {n.rpartition(".")[2].removeprefix("cross_") for n in dims.names}
        if "vocab" in kinds:
            head = self.blueprint.head
            return "head" if pattern.rstrip("?") in (head.weight, head.bias) else "embedding"
        if self.blueprint.vocabulary_only:
            return "other"
        if pattern.removesuffix("?").removesuffix(".weight") in self.blueprint.embeddings:
            return "embedding"
        if kinds & {"head", "kv_head"}:
            return "attention"
        experts = "expert" in kinds or len(repeated_axes(pattern)) > 1
        return "ffn" if "ffn" in kinds or experts else "norms"

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the hidden sizes, one for each residual stream, also where they are fixed."""
        return tuple(name for name in self.sizes if axis_kind(name) == "hidden")

    def modules(self, patterns: Iterable[str], layer: tuple[str, int] | None = None) -> list[str]:
        """Names of the modules that patterns of the blueprint stand for, pattern by pattern.

        `patterns`: such as the sites of an axis. `layer`: a layer axis and the number of a layer,
        for the modules of this layer alone.
        """
        found: list[str] = []
        for pattern in patterns:
            axis = layer_axis(pattern)
            if layer is not None:
                found += [numbered(pattern, *layer)] if axis == layer[0] else []
            elif axis is None:
                found.append(pattern)
            else:
                found += [numbered(pattern, axis, number) for number in range(self.sizes[axis])]
        return found

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by parameter name."""
        return {tensor.parameter: tensor.shape for tensor in self.tensors.values()}

    def resized(self, sizes: Mapping[str, int]) -> "Layout":
        """A layout with other sizes, and with fewer layers without the tensors of the last ones."""
        after = {**self.sizes, **sizes}
        tensors = {
            name: replace(tensor, shape=tensor.dims.shape(after))
            for name, tensor in self.tensors.items()
            if all(
                each is None or each[1] < after[each[0]] for each in (tensor.layer, tensor.expert)
            )
        }
        return replace(self, sizes=after, tensors=tensors)

    def folds(self) -> Iterator[Fold]:
        """The folds that apply to this checkpoint."""
        for fold in self.blueprint.folds:
            if fold.tied is not None and fold.tied is not self.tied:
                continue
            if all(condition.holds(self.config) for condition in fold.when):
                yield fold

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Raise UserError at sizes that this architecture does not accept."""
        if problem := self.size_problem(sizes):
            raise problem

    def size_problem(self, sizes: Mapping[str, int]) -> UserError | None:
        """Why these sizes are refused, or None where they are accepted; absent axes keep theirs.

        The key of the error is the axis whose size is wrong, if it is one axis.
        """
        new = {**self.sizes, **sizes}
        kind = self.blueprint.model_type
        for axis in self.blueprint.axes:
            size, old = new[axis.name], self.sizes[axis.name]
            if not 1 <= size <= old:
                return UserError(
                    f"{size:,} is not between 1 and {old:,}, what the model has", key=axis.name
                )
            if size != old and size % axis.multiple:
                return UserError(
                    f"{size:,} is not a multiple of {axis.multiple}, as {kind} needs",
                    key=axis.name,
                )
            if axis.groups and (problem := self._group_problem(axis.name, axis.groups, new)):
                return problem
        for field, names in self._shared_fields().items():
            if len({new[name] for name in names}) > 1:
                listed = ", ".join(f"{name} {new[name]:,}" for name in names)
                return UserError(
                    f"{listed}: {kind} has one field for them, {field}; cut them alike"
                )
        for constraint in self.blueprint.constraints:
            if problem := self._constraint_problem(constraint, new):
                return problem
        for name, field_ in self.blueprint.fixed.items():
            default = field_.default
            if field_.path is None and isinstance(default, Quotient):
                rule = KeepsQuotient(
                    default.dividend, default.divisor, f"{kind} has no field for {name}"
                )
                if problem := self._constraint_problem(rule, new):
                    return problem
        return None

    def _group_problem(self, head: str, kv_head: str, new: Mapping[str, int]) -> UserError | None:
        group = self.sizes[head] // self.sizes[kv_head]
        heads, kv_heads = new[head], new[kv_head]
        # Fewer groups, fewer heads in each group, or both, as two successive cuts can leave.
        if heads % kv_heads == 0 and heads // kv_heads <= group:
            return None
        return UserError(
            f"{heads} heads on {kv_heads} key-value heads cannot be cut from "
            f"{self.sizes[head]} on {self.sizes[kv_head]}; keep a multiple of "
            f"{self.sizes[kv_head]} heads, or whole groups of {group}",
            key=head,
        )

    def _constraint_problem(
        self, rule: Divides | KeepsQuotient | AtLeast, new: Mapping[str, int]
    ) -> UserError | None:
        if isinstance(rule, AtLeast):
            if new[rule.axis] >= new[rule.fixed]:
                return None
            return UserError(
                f"{new[rule.axis]:,} is less than the {new[rule.fixed]:,} that compute each token; "
                "keep at least so many",
                key=rule.axis,
            )
        if rule.when is not None and not rule.when.holds(self.config):
            return None
        kind = self.blueprint.model_type
        if isinstance(rule, Divides):
            whole, part = new[rule.whole], new[rule.part]
            if whole % part == 0:
                return None
            # The size that changes is the wrong one.
            wrong = rule.part if whole == self.sizes[rule.whole] else rule.whole
            near = [f"{size:,}" for size in self._nearest_accepted(rule, wrong, new)]
            unit = f" {rule.part}s" if wrong == rule.part else ""
            hint = f"; {' or '.join(near)}{unit} would be right" if near else ""
            return UserError(
                f"the {kind} config class refuses {whole:,} with {part} {rule.part}s, not a "
                f"multiple{hint}",
                key=wrong,
            )
        dividend, divisor = new[rule.dividend], new[rule.divisor]
        old_dividend, old_divisor = self.sizes[rule.dividend], self.sizes[rule.divisor]
        if dividend * old_divisor == old_dividend * divisor:
            return None
        return UserError(
            f"{rule.dividend} {dividend:,} with {divisor} {rule.divisor}s: {rule.why}, so cut both "
            f"together and keep {old_dividend / old_divisor:g} to a {rule.divisor}"
        )

    def _nearest_accepted(self, rule: Divides, axis: str, new: Mapping[str, int]) -> list[int]:
        """The sizes of one axis of a rule, below and above the one in `new`, that meet the rule.

        Query heads have the key-value heads of `new`, or as many to each of these as in `new`.
        """
        kv_head = self.blueprint.axis(axis).groups

        def is_accepted(size: int) -> bool:
            sizes = {**new, axis: size}
            if sizes[rule.whole] % sizes[rule.part]:
                return False
            if kv_head is None:
                return True
            counts = {new[kv_head], size * new[kv_head] // new[axis]}
            fits = (self._group_problem(axis, kv_head, {**sizes, kv_head: n}) for n in counts if n)
            return None in fits

        below, above = range(new[axis] - 1, 0, -1), range(new[axis] + 1, self.sizes[axis] + 1)
        found = (next(filter(is_accepted, sizes), None) for sizes in (below, above))
        return [size for size in found if size is not None]

    def _shared_fields(self) -> dict[str, list[str]]:
        fields: dict[str, list[str]] = {}
        for axis in self.blueprint.axes:
            if axis.field.path:
                fields.setdefault(axis.field.path, []).append(axis.name)
        return {path: names for path, names in fields.items() if len(names) > 1}

    def axes_of_field(self, axis: str) -> tuple[str, ...]:
        """The axes that share one config field with this axis, itself among them."""
        path = self.blueprint.axis(axis).field.path
        return tuple(a.name for a in self.blueprint.axes if a.field.path == path)


def layer_axis(pattern: str) -> str | None:
    """The layer axis in braces in a pattern; None outside layers."""
    place = _PLACE.search(pattern)
    return place[1] if place else None


def repeated_axes(pattern: str) -> list[str]:
    """The axes in braces in a pattern: none outside layers, the layer, or the layer and expert."""
    return _PLACE.findall(pattern)


def numbered(pattern: str, axis: str, number: int) -> str:
    """The name that a pattern stands for in one layer, or of one expert."""
    return pattern.replace("{" + axis + "}", str(number))
