"""Does the architecture's own class accept a config, and do all shapes match?

The class is built on the meta device. That needs torch and transformers, so where they are not
loaded yet it happens in a process of its own: a process that carves stays small.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from regrow.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def check_on_meta(
    config: Mapping[str, Any],
    architecture: str,
    shapes: Shapes,
    where: str = "config.json of the result",
) -> None:
    """Raise UserError unless a model of this config has exactly these parameters.

    `architecture`: name of the class. `shapes`: by parameter name; tensors that the class ties to
    another, and buffers that it fills itself, may be absent. `where`: the config, for the message.
    """
    if "transformers" in sys.modules:
        problem = find_problem(config, architecture, shapes)
    else:
        question = json.dumps({"config": config, "architecture": architecture, "shapes": shapes})
        answer = subprocess.run(
            [sys.executable, "-P", "-m", "regrow.checkpoint.meta_check"],
            input=question, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if answer.returncode:
            raise RuntimeError(f"the check of the new config failed:\n{answer.stderr}")
        problem = json.loads(answer.stdout)
    if problem:
        raise UserError(f"{where}: {problem}")


class ClassTensors(NamedTuple):
    """What a class has by name. `tied`: names of another's tensor; `filled`: those that the class
    fills where a file lacks them."""

    shapes: dict[str, tuple[int, ...]]
    tied: set[str]
    filled: set[str]


def class_tensors(config: Mapping[str, Any], architecture: str) -> ClassTensors:
    """The tensors of a class at a config, built on the meta device.

    Raises whatever the class raises at a config that it refuses.
    """
    import torch

    from regrow.models import config_class, model_class

    values = dict(config)
    built = config_class(values.pop("model_type")).from_dict(values)
    with torch.device("meta"):
        model = model_class(architecture)(built)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    return ClassTensors(shapes, tied, _filled(model))


def find_problem(config: Mapping[str, Any], architecture: str, shapes: Shapes) -> str | None:
    """What is wrong, in one line, or None."""
    try:
        found = class_tensors(config, architecture)
    except Exception as error:  # noqa: BLE001 - whatever the class raises is its refusal
        return f"{architecture} refuses it: {' '.join(str(error).split())}"
    for name, shape in found.shapes.items():
        if name not in shapes:
            if name in found.tied | found.filled:
                continue
            return f"{architecture} wants {name}, which is not there"
        if shape != tuple(shapes[name]):
            return f"{name}: {architecture} wants shape {list(shape)}, not {list(shapes[name])}"
    extra = sorted(shapes.keys() - found.shapes.keys())
    return f"{architecture} has no {extra[0]}" if extra else None


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
    question = json.load(sys.stdin)
    print(json.dumps(find_problem(**question)))


if __name__ == "__main__":
    _main()
