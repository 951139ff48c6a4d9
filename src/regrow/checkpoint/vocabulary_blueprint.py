"""A blueprint of nothing but the vocabulary, found by asking the class of a model.

Where an architecture has no blueprint, a cut of the vocabulary needs less: which tensors have a row
for each token. The class is built on the meta device at the size in the config and at one more; the
tensors that grow are the ones. All else is copied as it is.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.architectures.schema import Axis, Blueprint, Field, Head
from regrow.checkpoint.meta_check import ask
from regrow.common.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def vocabulary_blueprint(config: Mapping[str, Any], shapes: Shapes) -> Blueprint:
    """The blueprint by which the vocabulary of one checkpoint, and nothing else, can be cut.

    `shapes`: of the tensors in the files, by name.

    Raises UserError where transformers has no such class, and where a tensor may or may not lie
    along the vocabulary.
    """
    architecture = architecture_of(config)
    model_type = config["model_type"]
    found = ask("vocabulary_tensors", config=config, architecture=architecture)
    if "refusal" in found:
        raise UserError(f"config.json: {found['refusal']}")
    wanted = {name: tuple(found["shapes"][name]) for name in found["along"]}
    _check_prefix(shapes)
    parameters = {name: _parameter(name, shapes, found, wanted, architecture) for name in shapes}
    stored = set(parameters.values())
    for name in wanted:
        if name not in stored and name not in {*found["tied"], *found["filled"]}:
            raise UserError(f"{name}: missing, though {architecture} has it")
    tensors = {}
    for name, shape in shapes.items():
        at = found["along"].get(parameters[name]) if parameters[name] in wanted else None
        sides = ["vocab" if dimension == at else str(n) for dimension, n in enumerate(shape)]
        tensors[parameters[name]] = ", ".join(sides)
    field, *also = found["fields"]
    embedding = found["embedding"] or next(iter(wanted))
    main = (embedding, found["head"])
    tied = [name for name in wanted if name in found["tied"] and name not in main]
    biases = [name for name, shape in wanted.items() if len(shape) == 1 and name not in tied]
    return Blueprint(
        model_type=model_type,
        architectures=(architecture,),
        axes=(Axis("vocab", Field(field, default=found["size"], also=tuple(also))),),
        tensors=tensors,
        renames={name: own for name, own in parameters.items() if name != own},
        head=Head(
            found["head"] or "",
            embedding,
            aliases=tuple(tied),
            bias=biases[0] if biases else None,
            ties_when_absent=True,
        ),
        embeddings=(),
        buffers=tuple(found["filled"]),
        vocabulary_only=True,
        encoder_decoder=found["encoder_decoder"],
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that config.json names. Raises UserError where it names none, or no model type."""
    model_type, named = config.get("model_type"), config.get("architectures") or []
    if not isinstance(model_type, str):
        raise UserError(f"config.json: model_type: {model_type!r}: a name is wanted")
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise UserError(
            f"config.json: architectures: {named!r}: the name of the model's class is wanted"
        )
    return named[0]


def _check_prefix(shapes: Shapes) -> None:
    """torch.compile and DataParallel put a name before every other, which no class reads."""
    for name in shapes:
        if name.startswith(("_orig_mod.", "module.")):
            own = name.partition(".")[2]
            raise UserError(
                f"{name}: the class would not find it under this name; save the model itself, so "
                f"that it is called {own}"
            )


def _is_unread(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _parameter(
    name: str, shapes: Shapes, found: Mapping[str, Any], wanted: Shapes, architecture: str
) -> str:
    """The name that the class has for a tensor of the file that lies along the vocabulary; else the
    name in the file.

    transformers maps names on load, adds and drops prefixes: the last two parts of a name stay.
    """
    shape = shapes[name]
    own = name
    if name not in found["shapes"]:
        near = [
            each for each in wanted
            if each not in shapes and (_ending(each) == _ending(name) or each.endswith(f".{name}"))
        ]  # fmt: skip
        if len(near) != 1:
            if found["size"] == next(iter(shape), None) and not _is_unread(name, found["unread"]):
                raise UserError(
                    f"{name}: shape {list(shape)}: as many rows as there are tokens, but "
                    f"{architecture} has no tensor of this name, so it is unknown whether to cut it"
                )
            return name
        own = near[0]
    if own in wanted and shape != wanted[own]:
        raise UserError(f"{name}: shape {list(shape)}, but config.json gives {list(wanted[own])}")
    return own


def _ending(name: str) -> list[str]:
    return name.split(".")[-2:]
