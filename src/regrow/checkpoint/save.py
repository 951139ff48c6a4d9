"""Write trained weights in the form of the checkpoint that they began from."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regrow.architectures import Layout
from regrow.checkpoint.carve import check_free_space
from regrow.checkpoint.reader import Checkpoint


def save_trained(model: Any, like: Checkpoint, layout: Layout, out: Path) -> None:
    """A directory as `like`, with the same names, types and files, and the weights of `model`.

    `model`: a module of transformers with parameters of any float type; they are rounded to the
    types of `like`. Names that share a tensor stay equal. Written whole or not at all.
    """
    from safetensors.torch import save_file

    sizes = sum(info.nbytes for info in like.tensors.values())
    check_free_space(out, sizes)
    state: Mapping[str, Any] = model.state_dict()
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        temporary.chmod(0o755)
        for file in like.files:
            tensors = {
                name: state[layout.tensors[name].parameter].detach().to(_dtype(info.dtype))
                for name, info in like.tensors.items()
                if info.file == file
            }
            copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
            save_file(copies, str(temporary / file.name), metadata={"format": "pt"})
        for path in like.directory.iterdir():
            if path.is_file() and not (temporary / path.name).exists():
                shutil.copyfile(path, temporary / path.name)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _dtype(name: str) -> Any:
    import torch

    return {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    }[name]  # fmt: skip


def directory_bytes(directory: Path) -> int:
    """Size of all files of a model directory."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
