"""The types of blueprints. A blueprint describes one architecture as data: along which axis every
dimension of every tensor lies.

`docs/blueprints.md` explains these types, and lists all families.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from regrow.architectures.dims import Dims, parse_dims

AxisKind = Literal["vocab", "hidden", "ffn", "head", "kv_head", "expert", "layer"]
AXIS_KINDS: tuple[AxisKind, ...] = (
    "vocab", "hidden", "ffn", "kv_head", "head", "expert", "layer",
)  # fmt: skip
ACTIVE_EXPERTS, EXPERT_WIDTH = "active_experts", "expert_width"
"""Fixed sizes of a mixture of experts: how many experts compute each token, and their neurons."""


@dataclass(frozen=True)
class Condition:
    """A condition on config.json: a field has one of the given values.

    `negate`: the field has none of them instead. An absent field counts as `default`.
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
    """A size that the architecture derives as `dividend // divisor`, both names of axes."""

    dividend: str
    divisor: str


@dataclass(frozen=True)
class Codec:
    """How a size follows from a number in config.json that is not the size (OpenBA's ffn)."""

    size: Callable[[int], int]
    value: Callable[[int], int]
    """From a size to the number; raises ValueError where no number gives the size."""


@dataclass(frozen=True)
class Field:
    """Where config.json holds a size.

    `path`: dotted for nested configs; None where the class has no such field and always derives the
    size. `default`: what the class takes when the field is absent: a number, the name of another
    axis, or a quotient of two axes. `also`: fields that repeat the value; a cut writes them where
    they are present. `instead`: a field that holds the value where `path` is absent; a cut writes
    the one that is present. `mirrors`: keys that the config class does not have but the library
    reads; a cut writes them only where the size differs from the default.
    """

    path: str | None
    default: int | str | Quotient | None = None
    also: tuple[str, ...] = ()
    instead: str | None = None
    mirrors: tuple[str, ...] = ()
    codec: Codec | None = None


@dataclass(frozen=True)
class LayerList:
    """A config list with one entry a layer.

    `axis`: the layer axis. `default`: (config, number of the layer) -> the entry that the class
    gives the layer where the file has no list. A cut of layers needs it: for fewer layers the class
    would make another list. None if the class makes none.
    """

    axis: str
    default: Callable[[Mapping[str, Any], int], Any] | None


@dataclass(frozen=True)
class Axis:
    """An axis that can be cut.

    `along`: the layer axis, where each layer has its own choice of indices (but the same number of
    them, since one field holds it); None where one choice holds for the whole stack or model.
    `groups`: of query heads, their key-value axis. With g query heads to a key-value head, query
    head i reads key-value head i // g.
    `sites`: modules at which the axis is observed: at the input of the module for ffn and head, at
    the output for hidden (all norms over the residual stream), at both for layer. For experts it is
    the module whose `gate` chooses among its `experts`.
    `inside_norms`: norms over the whole fused dimension of all heads (OLMo 2's query and key
    norms).
    `multiple`: the architecture accepts only multiples of this size.
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
        """The stack of the axis; None where it belongs to the whole model."""
        stack, dot, _ = self.name.rpartition(".")
        return stack if dot else None

    @property
    def kind(self) -> AxisKind:
        return axis_kind(self.name)


@dataclass(frozen=True)
class Divides:
    """The config class refuses a `whole` that is not a multiple of `part`; both are axes."""

    part: str
    whole: str
    when: Condition | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        return self.part, self.whole


@dataclass(frozen=True)
class KeepsQuotient:
    """`dividend // divisor` must not change, since the config holds something of this size.

    `why`: the reason, for the error message.
    """

    dividend: str
    divisor: str
    why: str
    when: Condition | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        return self.dividend, self.divisor


@dataclass(frozen=True)
class AtLeast:
    """The size of an axis must not fall below a fixed size."""

    axis: str
    fixed: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)


@dataclass(frozen=True)
class Fold:
    """Makes up for a factor size**p of the network, which a cut would change.

    When the axis goes from n to m, the tensor w becomes (w + offset) * (m / n)**power - offset. All
    other tensors of a cut are copied without a change of values.
    """

    tensor: str
    axis: str
    power: float
    offset: float = 0.0
    tied: bool | None = None
    """True: only with a tied head. False: only with an untied head. None: with both."""
    when: tuple[Condition, ...] = ()
    """The fold applies only where all of these hold."""


@dataclass(frozen=True)
class HeadTensors:
    """The output head and the embedding that it may share.

    Whether the head is tied is read from the tensors, not from a flag: a checkpoint without
    `weight` is tied. `aliases`: further names of the embedding. A file may hold it under one of
    these alone, or under that of a tied head (`parameter_names`). `copies`: names under which a
    file may hold it once more and which the class ignores; a cut drops them, and one that differs
    from the embedding is refused. `ties_when_absent`: the class ties a head that is not stored,
    even where the config says untied. `tied_when`: the config says tied where all of these hold;
    then a stored head that differs from the embedding is refused.
    """

    weight: str
    embedding: str
    aliases: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    bias: str | None = None
    ties_when_absent: bool = False
    tied_when: tuple[Condition, ...] = (Condition("tie_word_embeddings", (True,)),)


@dataclass(frozen=True)
class Blueprint:
    """One architecture as data.

    `tensors`: name pattern -> dimensions, in the notation of `dims`. `{layer}` in a pattern stands
    for the number of the layer, and `{expert}` behind it for that of the expert. A pattern that
    ends in `?` is optional: all layers have the tensor, or none has. `assembled`: pattern of a
    parameter of the class -> the patterns of the tensors that transformers makes it from on load,
    one below the other, and stacked expert by expert. `renames`: names in files -> names of
    parameters, where transformers maps them on load; a cut keeps the names of the files. `fixed`:
    sizes that cannot be cut. `lists`: config lists with one entry a layer, by path. `ignored`:
    regular expressions for tensors that old checkpoints have and the class ignores; a cut drops
    them. `needs`: conditions on config.json, with the reason; a checkpoint that does not meet them
    is refused. `covers`: conditions on config.json; a checkpoint that does not meet them is as one
    without a blueprint. `embeddings`: modules whose output is the residual stream before the first
    layer. `buffers`: stored tensors that are no parameters. `vocabulary_only`: this blueprint was
    made by asking the class (`checkpoint/vocabulary_blueprint.py`) and labels only the vocabulary;
    all else is copied. `reason`: why it is not of more. `encoder_decoder`: whether such a blueprint
    is of an encoder-decoder; others have stacks. `derived`: this blueprint was made by asking the
    class, too (`checkpoint/derivation.py`); a cut writes out all sizes, since the class may take
    one from another. `pre_norm`: whether what attention and ffn write is added to the residual
    stream as it is, or times a constant, and is not normalised before or after the sum. `rotates`:
    whether the norms over the residual stream are read by matrices only; the norm of mBART's
    embeddings writes to the stream.
    """

    model_type: str
    architectures: tuple[str, ...]
    axes: tuple[Axis, ...]
    tensors: Mapping[str, str]
    head: HeadTensors
    embeddings: tuple[str, ...]
    renames: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Field] = field(default_factory=dict)
    lists: Mapping[str, LayerList] = field(default_factory=dict)
    assembled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constraints: tuple[Divides | KeepsQuotient | AtLeast, ...] = ()
    folds: tuple[Fold, ...] = ()
    ignored: tuple[str, ...] = ()
    needs: tuple[tuple[Condition, str], ...] = ()
    covers: tuple[Condition, ...] = ()
    buffers: tuple[str, ...] = ()
    vocabulary_only: bool = False
    reason: str | None = None
    encoder_decoder: bool = False
    derived: bool = False
    pre_norm: bool = True
    rotates: bool = True
    tiny: tuple[Mapping[str, Any], ...] = ()
    """Small configs that together switch on all variants; the proof runs on each."""

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
    def solvable(self) -> bool:
        """Whether all that writes to the residual stream is matrices that can be solved for.

        What experts write is weighed by a router.
        """
        return self.pre_norm and not any(axis.kind == "expert" for axis in self.axes)

    @property
    def is_encoder_decoder(self) -> bool:
        return self.encoder_decoder or "encoder" in self.stacks

    def dims(self, pattern: str) -> Dims:
        return parse_dims(self.tensors[pattern])


def axis_kind(name: str) -> AxisKind:
    """The kind of an axis by its name: `decoder.cross_head` is a `head`."""
    return cast(AxisKind, name.rpartition(".")[2].removeprefix("cross_"))


def size_path(config: Mapping[str, Any], field: Field) -> str | None:
    """Where config.json holds a size, or would hold it; None if the class derives the size."""
    if field.path is None or field.instead is None or read_field(config, field.path) is not None:
        return field.path
    return field.path if read_field(config, field.instead) is None else field.instead


def read_field(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None where it is absent."""
    value: Any = config
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value
