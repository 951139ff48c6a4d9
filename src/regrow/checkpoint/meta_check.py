"""Does the architecture's own class accept a config, and do all shapes match?

The class is built on the meta device. That needs torch and transformers, so where they are not
loaded yet it happens in a process of its own: a process that carves stays small.
"""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from regrow.architectures import Blueprint
from regrow.architectures.cut_config import set_field
from regrow.common.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def check_on_meta(
    config: Mapping[str, Any],
    blueprint: Blueprint,
    shapes: Shapes,
    where: str = "config.json of the result",
) -> None:
    """Raise UserError unless a model of this config has exactly these parameters.

    `shapes`: by parameter name; tensors that the class ties to another, and buffers that it fills
    itself, may be absent. Of a blueprint of the vocabulary alone only tensors along it are
    compared: the class may have others, or other names for them. `where`: the config, for the
    message.
    """
    if blueprint.vocabulary_only:
        shapes = {name: s for name, s in shapes.items() if blueprint.dims(name).names}
    problem = ask(
        "find_problem",
        config=config,
        architecture=blueprint.architectures[0],
        shapes=shapes,
        complete=not blueprint.vocabulary_only,
    )
    if problem:
        raise UserError(f"{where}: {problem}")


def ask(question: str, **arguments: Any) -> Any:
    """The answer to one of `_QUESTIONS`, as JSON has it; in a process of its own where transformers
    is not loaded here."""
    if "transformers" in sys.modules:
        return _QUESTIONS[question](**arguments)
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "regrow.checkpoint.meta_check", question],
        input=json.dumps(arguments), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if answer.returncode:
        raise RuntimeError(f"asking the class of a model failed:\n{answer.stderr}")
    return json.loads(answer.stdout)


class ClassTensors(NamedTuple):
    """What a class has by name. `tied`: names of another's tensor; `filled`: those that the class
    fills where a file lacks them; `unread`: patterns of names that it does not read; `embedding`
    and `head`: what reads and what gives tokens, where it has them."""

    shapes: dict[str, tuple[int, ...]]
    tied: set[str]
    filled: set[str]
    unread: list[str]
    embedding: str | None
    head: str | None


def class_tensors(config: Mapping[str, Any], architecture: str) -> ClassTensors:
    """The tensors of a class at a config, built on the meta device.

    Raises whatever the class raises at a config that it refuses.
    """
    import torch

    from regrow.models.networks import model_class

    with torch.device("meta"):
        model = model_class(architecture)(_built(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    unread = sorted(model._keys_to_ignore_on_load_unexpected or ())
    return ClassTensors(
        shapes, tied, _filled(model), unread, names.get(id(embedding)), names.get(id(head))
    )


def _built(config: Mapping[str, Any]) -> Any:
    from regrow.models.networks import config_class

    values = copy.deepcopy(dict(config))
    cls = config_class(values.pop("model_type"))
    # JSON has no infinity; what loads a file puts them back, and what builds from values does not.
    decode = getattr(cls, "_decode_special_floats", lambda values: values)
    return cls.from_dict(decode(values))


def find_problem(
    config: Mapping[str, Any], architecture: str, shapes: Shapes, *, complete: bool = True
) -> str | None:
    """What is wrong, in one line, or None. `complete`: these are all tensors."""
    try:
        found = class_tensors(config, architecture)
    except Exception as error:  # noqa: BLE001 - whatever the class raises is its refusal
        return _refusal(error, architecture)
    for name, shape in found.shapes.items():
        if name not in shapes:
            if not complete or name in found.tied | found.filled:
                continue
            return f"{architecture} wants {name}, which is not there"
        if shape != tuple(shapes[name]):
            return f"{name}: {architecture} wants shape {list(shape)}, not {list(shapes[name])}"
    extra = sorted(shapes.keys() - found.shapes.keys())
    return f"{architecture} has no {extra[0]}" if extra else None


def vocabulary_tensors(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """What of a class lies along the vocabulary: tensors that grow by one with one token more.

    Gives `fields`, the dotted keys of the config that hold the number of rows, first the one that
    the class reads; `size`, that number; `along`, by tensor name the dimension that grows; `shapes`
    of all tensors; whether it is an `encoder_decoder`; and, as in `ClassTensors`, `tied`, `filled`,
    `unread`, `embedding` and `head`. Or nothing but `refusal`, one line: also where a table grows
    with another number that may be one of tokens.
    """
    try:
        fields, size, others, encoder_decoder = _vocabulary_fields(config)
        found = class_tensors(config, architecture)
        more = class_tensors(_with_fields(config, fields, size + 1), architecture)
        for field, value in others.items():
            other = class_tensors(_with_fields(config, [field], value + 1), architecture)
            if name := _first_apart(found.shapes, other.shapes):
                refusal = (
                    f"{name}: {architecture} sizes it by {field} and not by {fields[0]}, so it is "
                    "unknown which of its rows follow a cut"
                )
                return {"refusal": refusal}
    except Exception as error:  # noqa: BLE001 - whatever the class raises is its refusal
        return {"refusal": _refusal(error, architecture)}
    if {n: len(s) for n, s in found.shapes.items()} != {n: len(s) for n, s in more.shapes.items()}:
        return {
            "refusal": f"{architecture} has other tensors at {size + 1:,} tokens than at {size:,}"
        }
    along: dict[str, int] = {}
    for name, shape in found.shapes.items():
        grown = [
            at for at, (a, b) in enumerate(zip(shape, more.shapes[name], strict=True))
            if a != b
        ]  # fmt: skip
        if not grown:
            continue
        if len(grown) > 1 or (shape[grown[0]], more.shapes[name][grown[0]]) != (size, size + 1):
            refusal = (
                f"{name}: {architecture} gives it {list(shape)} at {size:,} tokens and "
                f"{list(more.shapes[name])} at {size + 1:,}, not a row for each"
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
        "filled": sorted(found.filled), "unread": found.unread, "embedding": found.embedding,
        "head": found.head,
    }  # fmt: skip


def _refusal(error: Exception, architecture: str) -> str:
    return f"{architecture} refuses it: {' '.join(str(error).split())}"


def _first_apart(shapes: Shapes, others: Shapes) -> str | None:
    return next((name for name, shape in shapes.items() if others.get(name) != shape), None)


def _vocabulary_fields(
    config: Mapping[str, Any],
) -> tuple[list[str], int, dict[str, int], bool]:
    """The keys that hold the size of the vocabulary that text is read with, and that size; other
    sizes of vocabularies; and whether there is an encoder beside the decoder."""
    built = _built(config)
    text = built.get_text_config()
    key = text.attribute_map.get("vocab_size", "vocab_size")
    if not isinstance(size := getattr(text, "vocab_size", None), int):
        raise ValueError("its config has no vocab_size")
    own = next((n for n in built.sub_configs if getattr(built, n, None) is text), None)
    field = key if text is built else f"{own}.{key}"
    also = [path for path, value in _entries(config) if path != field and value == size]
    fields = [field, *(path for path in also if path.rpartition(".")[2] == key)]
    others = {
        path: value
        for path, value in _entries(built.to_dict())
        if "vocab" in path.rpartition(".")[2]
        and not path.endswith("type_vocab_size")
        and type(value) is int
        and path not in fields
    }
    return fields, size, others, bool(built.is_encoder_decoder)


def _entries(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
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


def _filled(model: Any) -> set[str]:
    """Buffers that the class says a file may lack: it fills them as it was built (BART's bias of
    the logits). A parameter may not be lacking, whatever the class says."""
    may_lack = [re.compile(text) for text in model._keys_to_ignore_on_load_missing or ()]
    names = (name for name, _ in model.named_buffers())
    return {name for name in names if any(pattern.search(name) for pattern in may_lack)}


def _main() -> None:
    import gc
    import logging

    gc.disable()  # imports make no garbage, and looking for it takes a fifth of their time
    logging.disable(logging.WARNING)
    print(json.dumps(_QUESTIONS[sys.argv[1]](**json.load(sys.stdin))))


_QUESTIONS: dict[str, Callable[..., Any]] = {
    "find_problem": find_problem,
    "vocabulary_tensors": vocabulary_tensors,
}


if __name__ == "__main__":
    _main()
