"""Versions and machine, as they enter ledger and report."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("regrow", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of what decides the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def machine() -> dict[str, Any]:
    """CPU by name, threads in use, memory in bytes, and the type in which matrices multiply."""
    import torch

    from regrow.common.precision import resolve_precision

    return {
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "products": resolve_precision("auto", torch.device("cpu")),
    }


def command() -> str:
    """The command line of this process, as it can be typed again."""
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
