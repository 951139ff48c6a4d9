"""Build a model class on the meta device, to check a config and the shapes of its tensors."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from regrow.architectures import Blueprint
from regrow.architectures.assembled import class_shapes
from regrow.architectures.cut_config import set_field
from regrow.checkpoint.class_query import query_class
from regrow.common.errors import UserError, one_line

Shapes = Mapping[str, tuple[int, ...]]


def check_on_meta(
    config: Mapping[str, Any],
    blueprint: Blueprint,
    shapes: Shapes,
    where: str = "config.json of the result",
) -> None:
    """Raise UserError unless a model of this config has exactly these parameters.

    `shapes`: by name, as the patterns of the blueprint name tensors. Tied tensors, and buffers that
    the class computes itself, may be absent. With a vocabulary-only blueprint only tensors along
    the vocabulary are compared, since the class may name the others differently. `where`: the
    config, as named in the message.
    """
    if blueprint.vocabulary_only:
        shapes = {n: shape for n, shape in shapes.items() if blueprint.dims(n).names}
    shapes = class_shapes(blueprint, shapes)
    problem = query_class(
        find_problem,
        config=config,
        architecture=blueprint.architectures[0],
        shapes=shapes,
        complete=not blueprint.vocabulary_only,
    )
    if problem:
        raise UserError(f"{where}: {problem}")


class ClassTensors(NamedTuple):
    """The tensors of a model class.

    `shapes`: by name. `tied`: names that share the tensor of another name. `optional`: buffers that
    a file may lack, since the class computes them. `ignored`: regular expressions of names in a
    file that the class does not load. `embedding`, `head`: names of the input embedding and of the
    output projection, None if the class has none.
    """

    shapes: dict[str, tuple[int, ...]]
    tied: set[str]
    optional: set[str]
    ignored: list[str]
    embedding: str | None
    head: str | None


def class_tensors(config: Mapping[str, Any], architecture: str) -> ClassTensors:
    """The tensors of a class with this config, built on the meta device.

    Raises whatever the class raises for a config that it refuses.
    """
    import torch

    from regrow.models.networks import model_class

    with torch.device("meta"):
        model = model_class(architecture)(build_config(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return ClassTensors(
        shapes=shapes,
        tied=tied,
        optional=_optional_buffers(model),
        ignored=sorted(model._keys_to_ignore_on_load_unexpected or ()),
        embedding=names.get(id(embedding)),
        head=names.get(id(head)),
    )


def build_config(config: Mapping[str, Any]) -> Any:
    """The config object of transformers. Raises whatever the class raises for its refusal."""
    from regrow.models.networks import check_depth, config_class

    check_depth(config)
    values = copy.deepcopy(dict(config))
    cls = config_class(values.pop("model_type"))
    # JSON has no infinity. `from_pretrained` restores it from its spelling, `from_dict` does not.
    decode = getattr(cls, "_decode_special_floats", lambda values: values)
    return cls.from_dict(decode(values))


def find_problem(
    config: Mapping[str, Any], architecture: str, shapes: Shapes, *, complete: bool = True
) -> str | None:
    """What is wrong with config or shapes, in one line; None if nothing is.

    `complete`: `shapes` must hold all tensors of the class.
    """
    try:
        found = class_tensors(config, architecture)
    except Exception as error:  # noqa: BLE001 - whatever the class raises is its refusal
        return refusal_of(error, architecture)
    for name, shape in found.shapes.items():
        if name not in shapes:
            if not complete or name in found.tied | found.optional:
                continue
            return f"{architecture} wants {name}, which is not there"
        if shape != tuple(shapes[name]):
            return f"{name}: {architecture} wants shape {list(shape)}, not {list(shapes[name])}"
    extra = sorted(shapes.keys() - found.shapes.keys())
    return f"{architecture} has no {extra[0]}" if extra else None


def vocabulary_tensors(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The tensors of a class that lie along the vocabulary: they grow by one with one more token.

    Returns a dict, in types that JSON has:
        fields: dotted keys of the config that hold the vocabulary size; the class reads the first.
        size: that vocabulary size.
        along: by tensor name, the dimension that grows.
        shapes: of all tensors, by name.
        encoder_decoder: whether the model has an encoder and a decoder.
        tied, optional, ignored, embedding, head: as in `ClassTensors`.

    If this is uncertain, the dict holds only `refusal`, the reason in one line. One such reason is
    a tensor that also grows with another config field that may be a vocabulary size.
    """
    try:
        fields, size, other_sizes, encoder_decoder = _vocabulary_fields(config)
        found = class_tensors(config, architecture)
        larger = class_tensors(_with_fields(config, fields, size + 1), architecture)
        for field, value in other_sizes.items():
            other = class_tensors(_with_fields(config, [field], value + 1), architecture)
            if name := _first_difference(found.shapes, other.shapes):
                refusal = (
                    f"{name}: {architecture} sizes it by {field} and not by {fields[0]}, so it is "
                    "unknown which of its rows follow a cut"
                )
                return {"refusal": refusal}
    except Exception as error:  # noqa: BLE001 - whatever the class raises is its refusal
        return {"refusal": refusal_of(error, architecture)}
    ranks, larger_ranks = (
        {name: len(shape) for name, shape in each.shapes.items()} for each in (found, larger)
    )
    if ranks != larger_ranks:
        return {
            "refusal": f"{architecture} has other tensors at {size + 1:,} tokens than at {size:,}"
        }
    along: dict[str, int] = {}
    for name, shape in found.shapes.items():
        grown = [
            dimension
            for dimension, (a, b) in enumerate(zip(shape, larger.shapes[name], strict=True))
            if a != b
        ]  # fmt: skip
        if not grown:
            continue
        if len(grown) > 1 or (shape[grown[0]], larger.shapes[name][grown[0]]) != (size, size + 1):
            refusal = (
                f"{name}: {architecture} gives it {list(shape)} at {size:,} tokens and "
                f"{list(larger.shapes[name])} at {size + 1:,}, not a row for each"
            )
            return {"refusal": refusal}
        along[name] = grown[0]
    if not along:
        return {"refusal": f"{architecture} has no tensor with a row for each token"}
    for tensor in (found.embedding, found.head):
        if tensor is not None and tensor not in along:
            return {"refusal": f"{tensor}: {architecture} does not size it by {fields[0]}"}
    return {
        "fields": fields, "size": size, "along": along, "shapes": found.shapes,
        "encoder_decoder": encoder_decoder, "tied": sorted(found.tied),
        "optional": sorted(found.optional), "ignored": found.ignored,
        "embedding": found.embedding, "head": found.head,
    }  # fmt: skip


def refusal_of(error: Exception, architecture: str) -> str:
    return f"{architecture} refuses it: {one_line(str(error))}"


def _first_difference(shapes: Shapes, others: Shapes) -> str | None:
    return next((name for name, shape in shapes.items() if others.get(name) != shape), None)


def _vocabulary_fields(
    config: Mapping[str, Any],
) -> tuple[list[str], int, dict[str, int], bool]:
    """Where a config holds the size of the text vocabulary.

    Returns the dotted keys that hold it, the size, the values of other keys that may be vocabulary
    sizes (by dotted key), and whether the model has an encoder and a decoder.
    """
    built = build_config(config)
    text = built.get_text_config()
    key = text.attribute_map.get("vocab_size", "vocab_size")
    if not isinstance(size := getattr(text, "vocab_size", None), int):
        raise ValueError("its config has no vocab_size")
    text_name = next((n for n in built.sub_configs if getattr(built, n, None) is text), None)
    field = key if text is built else f"{text_name}.{key}"
    equal = [path for path, value in _entries(config) if path != field and value == size]
    fields = [field, *(path for path in equal if path.rpartition(".")[2] == key)]
    other_sizes = {
        path: value
        for path, value in _entries(built.to_dict())
        if "vocab" in path.rpartition(".")[2]
        and not path.endswith("type_vocab_size")
        and type(value) is int
        and path not in fields
    }
    return fields, size, other_sizes, bool(built.is_encoder_decoder)


def _entries(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a nested config, each with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _with_fields(config: Mapping[str, Any], fields: list[str], value: int) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    for field in fields:
        set_field(changed, field, value)
    return changed


def _optional_buffers(model: Any) -> set[str]:
    """Buffers that a file may lack, by the class: it computes them (BART's bias of the logits).

    Parameters must be in the file, even if the class says that they may be missing.
    """
    optional = [re.compile(text) for text in model._keys_to_ignore_on_load_missing or ()]
    names = (name for name, _ in model.named_buffers())
    return {name for name in names if any(pattern.search(name) for pattern in optional)}
