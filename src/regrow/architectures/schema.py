"""Blueprints: for one architecture, as data, where every dimension of every tensor lies.

`docs/blueprints.md` explains the schema with all families written down in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from regrow.architectures.dims import Dims, parse_dims

AxisKind = Literal["vocab", "hidden", "ffn", "head", "kv_head", "layer"]
AXIS_KINDS: tuple[AxisKind, ...] = ("vocab", "hidden", "ffn", "kv_head", "head", "layer")


@dataclass(frozen=True)
class Condition:
    """Holds where a field of config.json has (or has not) one of the given values.

    A field that is absent counts as `default`.
    """

    field: str
    values: tuple[Any, ...]
    default: Any = None
    negate: bool = False

    def holds(self, config: Mapping[str, Any]) -> bool:
        value = read_field(config, self.field)
        found = (self.default if value is None else value) in self.values
        return found is not self.negate


@dataclass(frozen=True)
class Quotient:
    """The default of a size that the architecture derives as `dividend // divisor`."""

    dividend: str
    divisor: str


@dataclass(frozen=True)
class Codec:
    """Where config.json holds another number than the size (OpenBA's ffn)."""

    size: Callable[[int], int]
    value: Callable[[int], int]
    """Inverse of `size`; raises ValueError for a size that no value gives."""


@dataclass(frozen=True)
class Field:
    """Where config.json holds a size.

    `path` is dotted for nested configs; None where the class has no such field and always derives
    the size. `default` is what the class takes when the field is absent: a number, the name of
    another axis, or a quotient of two. `also` are fields that repeat the value, written where they
    are present. `mirrors` are keys at the top that the class has not and the library reads: they
    repeat the value where it is not the default, and only there.
    """

    path: str | None
    default: int | str | Quotient | None = None
    also: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    codec: Codec | None = None


@dataclass(frozen=True)
class LayerList:
    """A config list with one entry a layer.

    `axis`: the layer axis. `default`: what the class puts at a layer of this number where the file
    has no list; of fewer layers it would make another one.
    """

    axis: str
    default: Callable[[Mapping[str, Any], int], Any]


@dataclass(frozen=True)
class Axis:
    """An axis that can be cut.

    `along`: the layer axis along which the *choice* of indices may differ (how many are kept does
    not: one field serves all layers); None where one choice serves the whole scope.
    `groups`: for query heads, the key-value axis: with g heads to a key-value head, head i reads
    key-value head i // g.
    `sites`: modules where the axis can be seen at work: the input of the module for ffn and head,
    the output for hidden (all norms over the residual stream), both ends for layer.
    `inside_norms`: norms that run over the whole fused dimension (OLMo 2's query and key norms).
    `multiple`: sizes that the architecture accepts are multiples of this.
    """

    name: str
    field: Field
    along: str | None = None
    groups: str | None = None
    sites: tuple[str, ...] = ()
    inside_norms: tuple[str, ...] = ()
    multiple: int = 1

    @property
    def stack(self) -> str | None:
        """The stack that the axis belongs to; None for the whole model."""
        stack, dot, _ = self.name.rpartition(".")
        return stack if dot else None

    @property
    def kind(self) -> AxisKind:
        return axis_kind(self.name)


@dataclass(frozen=True)
class Divides:
    """The config class refuses `whole` that is not a multiple of `part`."""

    part: str
    whole: str
    when: Condition | None = None


@dataclass(frozen=True)
class KeepsQuotient:
    """`dividend // divisor` must stay what it is: something of that size is not in the tensors."""

    dividend: str
    divisor: str
    why: str
    when: Condition | None = None


@dataclass(frozen=True)
class Fold:
    """Keep the strength of a factor size**p that the network itself applies.

    When the axis goes from n to m, the tensor w becomes (w + offset) * (m / n)**power - offset.
    Written only for what the new size would change; the one exception to copying bytes.
    """

    tensor: str
    axis: str
    power: float
    offset: float = 0.0
    tied: bool | None = None
    """Applies only to a tied head, only to an untied one, or to both."""
    when: tuple[Condition, ...] = ()
    """Applies where all of these hold."""


@dataclass(frozen=True)
class Head:
    """The output head and the embedding that it may share.

    Tied is read from the tensors, not from a flag: a checkpoint without `weight` is tied.
    `aliases` are further names of the embedding. `softcap` is a config field.
    `ties_when_absent`: the class ties a head that is not stored even where the config says untied.
    `tied_when`: where all of these hold the config says tied, and a head that differs is refused.
    """

    weight: str
    embedding: str
    aliases: tuple[str, ...] = ()
    bias: str | None = None
    softcap: str | None = None
    ties_when_absent: bool = False
    tied_when: tuple[Condition, ...] = (Condition("tie_word_embeddings", (True,)),)


@dataclass(frozen=True)
class Blueprint:
    """One architecture as data.

    `tensors`: name pattern -> dimensions (see `dims`). `{layer}` stands for the index along the
    axis of that name, and is itself a dimension. A pattern that ends in `?` may be absent, in all
    layers at once. `renames`: names in files -> names of parameters, where transformers maps them
    on load; files keep theirs. `fixed`: sizes that cannot be cut. `lists`: config lists with one
    entry a layer, by path. `ignored`: patterns (regular expressions) of tensors that old
    checkpoints carry and the class ignores: dropped by name. `needs`: conditions on config.json
    without which the blueprint does not describe the checkpoint, with the reason. `embeddings`:
    modules whose output is the residual stream before the first layer. `buffers`: stored tensors
    that are no parameters, and are not counted as such. `vocabulary_only`: it was found by asking
    the class (`checkpoint/vocabulary.py`) and labels nothing but the vocabulary; `tensors` are
    those of one checkpoint, and what has no axis is copied as it is. `encoder_decoder`: of such a
    one, which has no axes to tell it by.
    """

    model_type: str
    architectures: tuple[str, ...]
    axes: tuple[Axis, ...]
    tensors: Mapping[str, str]
    head: Head
    embeddings: tuple[str, ...]
    renames: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Field] = field(default_factory=dict)
    lists: Mapping[str, LayerList] = field(default_factory=dict)
    constraints: tuple[Divides | KeepsQuotient, ...] = ()
    folds: tuple[Fold, ...] = ()
    ignored: tuple[str, ...] = ()
    needs: tuple[tuple[Condition, str], ...] = ()
    buffers: tuple[str, ...] = ()
    vocabulary_only: bool = False
    encoder_decoder: bool = False
    tiny: tuple[Mapping[str, Any], ...] = ()
    """Small configs that cover the variants; the proof runs on each."""

    def axis(self, name: str) -> Axis:
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(name)

    @property
    def axis_names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    @property
    def stacks(self) -> tuple[str, ...]:
        """Names of the stacks, in order; empty for a model with one."""
        return tuple(dict.fromkeys(a.stack for a in self.axes if a.stack is not None))

    @property
    def is_encoder_decoder(self) -> bool:
        return self.encoder_decoder or "encoder" in self.stacks

    def dims(self, pattern: str) -> Dims:
        return parse_dims(self.tensors[pattern])


def axis_kind(name: str) -> AxisKind:
    """The kind of an axis by its name: `decoder.cross_head` is a `head`."""
    return cast(AxisKind, name.rpartition(".")[2].removeprefix("cross_"))


def read_field(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None where it is absent."""
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
