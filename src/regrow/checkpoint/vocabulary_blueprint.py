"""A blueprint of the vocabulary alone, for an architecture that has no blueprint.

To cut the vocabulary it is enough to know which tensors have a row for each token. The model class
is built on the meta device with the vocabulary size of the config and with one more; the tensors
that grow are those. All others are copied unchanged.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.architectures.schema import Axis, Blueprint, Field, HeadTensors
from regrow.checkpoint.class_query import query_class
from regrow.checkpoint.meta_check import Shapes, vocabulary_tensors
from regrow.common.errors import UserError


def vocabulary_blueprint(config: Mapping[str, Any], shapes: Shapes) -> Blueprint:
    """A blueprint with which only the vocabulary of this checkpoint can be cut.

    `shapes`: of the tensors in the files, by name.

    Raises UserError if transformers has no such class, or if it is uncertain whether a tensor lies
    along the vocabulary.
    """
    architecture = architecture_of(config)
    model_type = config["model_type"]
    found = query_class(vocabulary_tensors, config=config, architecture=architecture)
    if "refusal" in found:
        raise UserError(f"config.json: {found['refusal']}")
    along_vocabulary = {name: tuple(found["shapes"][name]) for name in found["along"]}
    _check_prefix(shapes)
    parameters = {
        name: _parameter(name, shapes, found, along_vocabulary, architecture) for name in shapes
    }
    stored = set(parameters.values())
    for name in along_vocabulary:
        if name not in stored and name not in {*found["tied"], *found["optional"]}:
            raise UserError(f"{name}: missing, though {architecture} has it")
    tensors = {}
    for name, shape in shapes.items():
        cut_dimension = found["along"].get(parameters[name])
        labels = [
            "vocab" if dimension == cut_dimension else str(size)
            for dimension, size in enumerate(shape)
        ]
        tensors[parameters[name]] = ", ".join(labels)
    field, *also = found["fields"]
    embedding = found["embedding"] or next(iter(along_vocabulary))
    main = (embedding, found["head"])
    tied = [name for name in along_vocabulary if name in found["tied"] and name not in main]
    biases = [
        name for name, shape in along_vocabulary.items() if len(shape) == 1 and name not in tied
    ]
    return Blueprint(
        model_type=model_type,
        architectures=(architecture,),
        axes=(Axis("vocab", Field(field, default=found["size"], also=tuple(also))),),
        tensors=tensors,
        renames={name: parameter for name, parameter in parameters.items() if name != parameter},
        head=HeadTensors(
            found["head"] or "",
            embedding,
            aliases=tuple(tied),
            bias=biases[0] if biases else None,
            ties_when_absent=True,
        ),
        embeddings=(),
        buffers=tuple(found["optional"]),
        vocabulary_only=True,
        encoder_decoder=found["encoder_decoder"],
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The model class that config.json names.

    Raises UserError if it names no class or no model type.
    """
    model_type, classes = config.get("model_type"), config.get("architectures") or []
    if not isinstance(model_type, str):
        raise UserError(f"config.json: model_type: {model_type!r}: a name is wanted")
    name = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(
            f"config.json: architectures: {classes!r}: the name of the model's class is wanted"
        )
    return name


def _check_prefix(shapes: Shapes) -> None:
    """Raise UserError if names begin with the prefix of torch.compile or DataParallel.

    No model class loads such names.
    """
    for name in shapes:
        if name.startswith(("_orig_mod.", "module.")):
            unprefixed = name.partition(".")[2]
            raise UserError(
                f"{name}: the class would not find it under this name; save the model itself, so "
                f"that it is called {unprefixed}"
            )


def _is_ignored(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _parameter(
    name: str,
    shapes: Shapes,
    found: Mapping[str, Any],
    along_vocabulary: Shapes,
    architecture: str,
) -> str:
    """The name of a stored tensor in the model class.

    For a tensor that does not lie along the vocabulary it is the name in the file.

    transformers renames tensors on load and adds or drops prefixes, but keeps the last two parts of
    a name. `found`: as `vocabulary_tensors` gives it.
    """
    shape = shapes[name]
    parameter = name
    if name not in found["shapes"]:
        similar = [
            each for each in along_vocabulary
            if each not in shapes and (_ending(each) == _ending(name) or each.endswith(f".{name}"))
        ]  # fmt: skip
        if len(similar) != 1:
            has_vocabulary_rows = found["size"] == next(iter(shape), None)
            if has_vocabulary_rows and not _is_ignored(name, found["ignored"]):
                raise UserError(
                    f"{name}: shape {list(shape)}: as many rows as there are tokens, but "
                    f"{architecture} has no tensor of this name, so it is unknown whether to cut it"
                )
            return name
        parameter = similar[0]
    if parameter in along_vocabulary and shape != along_vocabulary[parameter]:
        right = list(along_vocabulary[parameter])
        raise UserError(f"{name}: shape {list(shape)}, but config.json gives {right}")
    return parameter


def _ending(name: str) -> list[str]:
    return name.split(".")[-2:]
