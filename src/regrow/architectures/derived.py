"""Blueprints derived from how the tensors of a class grow with its sizes.

`checkpoint/derivation.py` builds a class at several sizes, and proves what is derived here.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regrow.architectures.dims import Block, Dimension, parse_dims
from regrow.architectures.schema import (
    Axis,
    Blueprint,
    Divides,
    Field,
    Fold,
    HeadTensors,
    LayerList,
)

FIELDS: Mapping[str, tuple[str, ...]] = {
    "vocab": ("vocab_size",),
    "hidden": ("hidden_size", "d_model"),
    "ffn": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "d_ff"),
    "kv_head": ("num_key_value_heads", "num_kv_heads"),
    "head": ("num_attention_heads", "num_heads"),
    "layer": ("num_hidden_layers", "num_layers"),
    "head_dim": ("head_dim", "kv_channels"),
}
"""Names of config fields, by the axis or fixed size that they hold; the first present one counts.

The classes of transformers map the names of older configs to most of these.
"""
_ALONG_LAYERS = ("ffn", "kv_head", "head")


class NotDerivedError(Exception):
    """Nothing can be derived; the message gives the reason in one line."""


@dataclass(frozen=True)
class Derived:
    """What one class and the flags of one config give, at any sizes.

    `paths`: config fields by axis or fixed size, and `also`: names that older configs have for
    them. `axes`: those that can be cut, in their order; the others in `paths` are fixed. `sites`
    and `inside_norms`: by axis, as in `Axis`. `tensors`: name pattern -> dimensions; numbers in
    them are of the tiny model. `lists`: config fields with one entry a layer. `divides`: the class
    refuses some hidden sizes that are not multiples of the heads. `last_norm`: the weight of the
    norm in front of the head. `norm_offset`: the class multiplies the embedding by the root of the
    hidden size, and adds this number to the weight of a norm; None if it does not multiply.
    """

    model_type: str
    architecture: str
    paths: Mapping[str, str]
    also: Mapping[str, str]
    axes: Sequence[str]
    sites: Mapping[str, Sequence[str]]
    inside_norms: Mapping[str, Sequence[str]]
    tensors: Mapping[str, str]
    lists: Sequence[str]
    embedding: str
    head: str | None
    head_bias: str | None
    last_norm: str | None
    embeddings: Sequence[str]
    ignored: Sequence[str]
    buffers: Sequence[str]
    divides: bool
    pre_norm: bool
    norm_offset: float | None = None

    def blueprint(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        values: Mapping[str, int],
        lists: Mapping[str, Sequence[Any]],
    ) -> Blueprint:
        """The blueprint for one checkpoint.

        `shapes`: of its tensors, by name. `values`: what the class takes for each entry of `paths`.
        `lists`: what the class takes for each of `lists`.

        Raises NotDerivedError where a tensor has no label.
        """
        fields = {
            name: Field(path, values[name], also=(self.also[name],) if name in self.also else ())
            for name, path in self.paths.items()
        }
        has_groups = "kv_head" in self.axes
        both = {"hidden", "head"} <= set(self.axes)
        return Blueprint(
            model_type=self.model_type,
            architectures=(self.architecture,),
            axes=tuple(
                Axis(
                    name,
                    fields[name],
                    along="layer" if name in _ALONG_LAYERS else None,
                    groups="kv_head" if name == "head" and has_groups else None,
                    sites=tuple(self.sites.get(name, ())),
                    inside_norms=tuple(self.inside_norms.get(name, ())),
                )
                for name in self.axes
            ),
            fixed={name: field for name, field in fields.items() if name not in self.axes},
            tensors=dict(self._with_numbers(shapes, values)),
            head=HeadTensors(self.head or "", self.embedding, bias=self.head_bias),
            embeddings=tuple(self.embeddings),
            lists={path: LayerList("layer", _entry_of(lists[path])) for path in self.lists},
            constraints=(Divides("head", "hidden"),) if self.divides and both else (),
            folds=self._folds,
            ignored=tuple(f".*(?:{each}).*" for each in self._ignored),
            buffers=tuple(self.buffers),
            derived=True,
            pre_norm=self.pre_norm,
        )

    @property
    def _folds(self) -> tuple[Fold, ...]:
        """Those of Gemma (docs/blueprints.md, Folds)."""
        if self.norm_offset is None or self.last_norm is None:
            return ()
        of_embedding = [Fold(self.embedding, "hidden", power=-0.5)]
        if self.head is not None:  # where the file stores it, too
            of_embedding.append(Fold(self.head, "hidden", power=-0.5, tied=True))
        offset = self.norm_offset
        return *of_embedding, Fold(self.last_norm, "hidden", power=0.5, offset=offset, tied=True)

    @property
    def _ignored(self) -> list[str]:
        """Regular expressions of names that transformers drops, to be searched for."""
        return [*self.ignored, r"\.rotary_emb\.inv_freq$"]

    def _with_numbers(
        self, shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]
    ) -> Iterator[tuple[str, str]]:
        """The tensors of a file with their labels, in which numbers are those of the file."""
        compiled = {
            pattern: re.compile(re.escape(pattern).replace(r"\{layer\}", r"\d+"))
            for pattern in self.tensors
        }
        shape_of: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes.items():
            pattern = next((p for p, each in compiled.items() if each.fullmatch(name)), None)
            if pattern is not None:
                shape_of.setdefault(pattern, shape)
            elif not any(re.search(each, name) for each in self._ignored):
                raise NotDerivedError(f"{name}: {self.architecture} has no tensor of this name")
        optional = {self.head, *self.buffers}
        for pattern, label in self.tensors.items():
            dims, actual = parse_dims(label).dimensions, shape_of.get(pattern, ())
            if len(actual) == len(dims):
                parts = zip(dims, actual, strict=True)
                label = ", ".join(_with_number(each, size, sizes) for each, size in parts)
            yield f"{pattern}?" if pattern in optional else pattern, label


def _entry_of(entries: Sequence[Any]) -> Any:
    return lambda _, layer: entries[layer]


def patterns_of(names: Iterable[str], fewer: Iterable[str], layers: int) -> dict[str, list[str]]:
    """The names of a class by their patterns: those of layers differ in the number of the layer.

    `fewer`: the names of the same class with one layer less.

    Raises NotDerivedError where not all layers have the same tensors.
    """
    names = list(names)
    last = next((name for name in names if name not in set(fewer)), None)
    place = last and re.match(rf"(.*?\.){layers - 1}\.", last)
    if not place:
        raise NotDerivedError("no tensor names that number the layers")
    inside = re.compile(rf"{re.escape(place[1])}(\d+)\.(.*)")
    found: dict[str, list[str]] = {}
    for name in names:
        hit = inside.fullmatch(name)
        pattern = f"{place[1]}{{layer}}.{hit[2]}" if hit else name
        found.setdefault(pattern, []).append(name)
    for pattern, members in found.items():
        if "{layer}" in pattern and len(members) != layers:
            raise NotDerivedError(f"{members[0]}: not all layers have this tensor")
    return found


def orders_of(
    shape: tuple[int, ...], larger: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]
) -> list[tuple[str, ...]]:
    """For each dimension of a tensor, the ways in which it may lie along the axes.

    `shape`: at `sizes`, which also has `head_dim`. `larger`: by axis, the shape where the size of
    this axis is doubled.

    Raises NotDerivedError where a dimension grows in another way.
    """
    found: list[tuple[str, ...]] = []
    for number, size in enumerate(shape):
        growth = {
            axis: (each[number] - size) // sizes[axis]
            for axis, each in larger.items()
            if each[number] != size
        }
        rest = size - sum(count * sizes[axis] for axis, count in growth.items())
        if not growth:
            found.append((str(size),))
        elif rest or (len(growth) > 1 and growth.keys() != {"head", "kv_head"}):
            raise NotDerivedError(f"shape {list(shape)}: {size} follows {', '.join(growth)}")
        elif len(growth) == 1:
            ((axis, count),) = growth.items()
            found.append(_orders(axis, count, sizes["head_dim"]))
        else:
            blocks = [
                _blocks(axis, growth[axis], sizes["head_dim"]) for axis in ("head", "kv_head")
            ]
            found.append((" + ".join(each for block in blocks for each in block),))
    return found


def _blocks(axis: str, count: int, head_dim: int) -> list[str]:
    """`count` positions for each index of an axis, as blocks one after the other."""
    if axis not in ("head", "kv_head"):
        return [axis] * count
    if count % head_dim == 0:
        return [f"{axis}*head_dim"] * (count // head_dim)
    return [axis if count == 1 else f"{axis}*{count}"]


def _orders(axis: str, count: int, head_dim: int) -> tuple[str, ...]:
    blocks = _blocks(axis, count, head_dim)
    if len(blocks) == 1:
        return (blocks[0],)
    _, times, inner = blocks[0].partition("*")
    interleaved = [f"{axis}*{len(blocks)}{times}{inner}", f"{axis}{times}{inner}*{len(blocks)}"]
    return tuple(dict.fromkeys([" + ".join(blocks), *interleaved]))


def candidates(orders: Mapping[str, Sequence[tuple[str, ...]]]) -> Iterator[dict[str, str]]:
    """All labellings: tensors with the same choice of orders have the same order."""
    choices = list(dict.fromkeys(each for dims in orders.values() for each in dims))
    for picks in itertools.product(*choices):
        picked = dict(zip(choices, picks, strict=True))
        yield {name: ", ".join(picked[each] for each in dims) for name, dims in orders.items()}


def _with_number(dimension: Dimension, size: int, sizes: Mapping[str, int]) -> str:
    """A dimension in the notation of `dims`; its number, if it has one, follows from the size."""
    blocks = []
    for block in dimension.blocks:
        names = Block(tuple(each for each in block.factors if isinstance(each, str)))
        if block.factors == (block.factors[0],) and not names.factors:
            blocks.append(str(size))
        elif len(dimension.blocks) == 1 and len(names.factors) == 1 and len(block.factors) == 2:
            blocks.append(f"{names.factors[0]}*{size // names.size(sizes)}")
        else:
            blocks.append("*".join(str(each) for each in block.factors))
    return " + ".join(blocks)
