"""What must be the same for a resumed run to end in the same bits."""

import importlib.metadata
import platform

import torch


def environment(device: torch.device) -> dict[str, str | int]:
    """Versions, machine kind and thread count."""
    return {
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
