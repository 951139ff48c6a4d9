"""The environment that must be the same for a resumed run to give the same bits."""

import importlib.metadata
import platform

import numpy as np
import torch

from regrow.common.precision import Precision, resolve_precision


def environment(
    device: torch.device, precision: Precision, processes: int, replicas: int = 1
) -> dict[str, str | int]:
    """Versions, machine kind, numbers of threads and processes, and the dtype of products."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": processes if replicas == 1 else f"{processes} in {replicas} replicas",
        "products": resolve_precision(precision, device),
    }
