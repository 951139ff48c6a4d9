"""Write trained weights in the form of the checkpoint that they began from."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.architectures import Layout
from regrow.checkpoint.companions import companion_files, write_files
from regrow.checkpoint.reader import INDEX_FILE, SINGLE_FILE, Checkpoint
from regrow.common.disk import check_free_space
from regrow.common.files import save_tensors, sync_directory
from regrow.models.networks import with_own_code

if TYPE_CHECKING:
    from torch import Tensor


def save_trained(
    state: "Mapping[str, Tensor]", like: Checkpoint, layout: Layout, out: Path
) -> None:
    """A directory as `like`, with the same names, types and files, and other weights.

    `state`: of a module of transformers, of any float type; rounded to the types of `like`. Names
    that share a tensor stay equal, and tensors that the class ignores are left out. Written whole
    or not at all.

    Raises UserError where the disk has no room.
    """
    named = {name: info for name, info in like.tensors.items() if name in layout.tensors}
    sizes = sum(info.nbytes for info in named.values())
    check_free_space(out, sizes)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        temporary.chmod(0o755)
        written: dict[str, str] = {}
        for file in like.files:
            tensors = {
                name: state[layout.tensors[name].parameter]
                .detach()
                .to(_dtype(info.dtype), copy=True)
                .contiguous()
                for name, info in named.items()
                if info.file == file
            }
            if tensors:
                save_tensors(tensors, temporary / file.name)
                written |= dict.fromkeys(tensors, file.name)
        if [file.name for file in like.files] != [SINGLE_FILE]:
            index = {"metadata": {"total_size": sizes}, "weight_map": written}
            (temporary / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
        companions = companion_files(like.directory)
        files = {name: path.read_bytes() for name, path in companions.items()}
        config, files = with_own_code(like.config, files)
        files["config.json"] = (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
        write_files(temporary, files)
        for path in (*temporary.rglob("*"), temporary):
            sync_directory(path)
        temporary.rename(out)
        sync_directory(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _dtype(name: str) -> Any:
    import torch

    return {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    }[name]  # fmt: skip
