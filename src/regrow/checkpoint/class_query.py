"""Call a function that needs transformers.

If transformers is not imported yet, a subprocess does it, so that a process that only carves uses
little memory.
"""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def query_class(query: Callable[..., Any], **arguments: Any) -> Any:
    """The result of a function of regrow, in types that JSON has.

    It runs in a subprocess if transformers is not imported here.
    """
    if "transformers" in sys.modules:
        return query(**arguments)
    return in_subprocess(query, **arguments)


def in_subprocess(query: Callable[..., Any], **arguments: Any) -> Any:
    """As `query_class`, in a subprocess in any case."""
    process = subprocess.run(
        [sys.executable, "-P", "-m", __name__, query.__module__, query.__name__],
        input=json.dumps(arguments), capture_output=True, encoding="utf-8",
        errors="replace", check=False, process_group=0,
    )  # fmt: skip
    if process.returncode:
        raise RuntimeError(f"building the class of a model failed:\n{process.stderr}")
    return json.loads(process.stdout)


def _main(module: str, name: str) -> None:
    import gc
    import logging

    gc.disable()  # collecting garbage takes a fifth of the import time, and finds none
    logging.disable(logging.WARNING)
    query = getattr(importlib.import_module(module), name)
    print(json.dumps(query(**json.load(sys.stdin))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
