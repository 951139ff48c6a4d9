"""Versions, machine and command line, as the ledger and the report record them."""

import importlib.metadata
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = ("regrow", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result, by name."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


@cache  # every step of a run asks, and each answer takes some 10 ms
def _version(package: str) -> str:
    return importlib.metadata.version(package)


def machine() -> dict[str, Any]:
    """The CPU's name, the threads in use, the memory in bytes, and the type of matrix products.

    `products` is `bf16` or `fp32`, see `regrow.common.precision`.
    """
    import torch

    from regrow.common.precision import resolve_precision

    return {
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "products": resolve_precision("auto", torch.device("cpu")),
    }


def command() -> str:
    """The command line of this process, quoted for a shell."""
    import shlex

    name = Path(sys.argv[0]).name
    return shlex.join([name, *sys.argv[1:]])


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
