"""Write trained weights in the form of the checkpoint that they began from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.architectures import Layout
from regrow.checkpoint.companions import read_companions
from regrow.checkpoint.header import SAFETENSORS_DTYPES
from regrow.checkpoint.reader import Checkpoint
from regrow.checkpoint.writer import WeightFile, partial_directory, publish, small_files
from regrow.common.disk import check_free_space
from regrow.common.files import save_tensors

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
    import torch

    weights = []
    for path in like.files:
        infos = (info for info in like.tensors.values() if info.file == path)
        if specs := tuple(info.spec for info in infos if info.name in layout.tensors):
            weights.append(WeightFile(path.name, specs))
    check_free_space(out, sum(spec.nbytes for file in weights for spec in file.tensors))
    with partial_directory(out) as partial:
        for file in weights:
            tensors = {
                spec.name: state[layout.tensors[spec.name].parameter]
                .detach()
                .to(getattr(torch, SAFETENSORS_DTYPES[spec.dtype]), copy=True)
                .contiguous()
                for spec in file.tensors
            }
            save_tensors(tensors, partial / file.name)
        files = read_companions(like.directory)
        publish(partial, out, weights, small_files(like.config, files, weights, indent=1))
