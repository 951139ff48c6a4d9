"""The teacher of a recovery, from its directory."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.precision import Precision, resolve_precision
from regrow.surgery.cut import AxisCut, Cut
from regrow.surgery.prune import ORIGIN_FILE
from regrow.surgery.ranges import Indices

if TYPE_CHECKING:
    from regrow.objectives.losses.distillation import Teacher
    from regrow.training.distributed.processes import Processes


def load_teacher(
    model: ModelDirectory, student: ModelDirectory, precision: Precision, processes: "Processes"
) -> "Teacher":
    """The model of a directory as the teacher of another, which was cut from it.

    Its weights are in bfloat16 where products are. Several processes, which call it alike, share
    them out, as they do with a model that is trained.

    Raises UserError where it cannot teach it, or does something to its logits that `Head` does not
    know.
    """
    import torch

    from regrow.objectives.losses.distillation import Teacher
    from regrow.objectives.losses.head import check_head
    from regrow.training.distributed.sharded_loading import load_in_first

    device = processes.trains_on
    rows = processes.in_all(lambda: kept_rows(student, model))
    in_bf16 = resolve_precision(precision, device) == "bf16"
    dtype = torch.bfloat16 if in_bf16 else torch.float32
    loaded = load_in_first(model.path, dtype, processes)
    processes.in_first(lambda: check_head(loaded))
    identity = processes.in_all(lambda: model.checkpoint).fingerprint
    if rows is not None:
        digest = hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").data).hexdigest()
        identity = f"{identity} of rows {digest}"
    found = None if rows is None else torch.tensor(rows, device=device)
    teacher = Teacher(loaded.requires_grad_(False), found, identity)
    share_out(teacher, processes)
    return teacher


def share_out(teacher: "Teacher", processes: "Processes") -> None:
    """Give each process a part of each layer's parameters; one alone has all, where it trains."""
    from torch.distributed.fsdp import fully_shard

    from regrow.models.layers import layers
    from regrow.training.distributed.sharded_loading import fill_parts, whole_parameters

    if processes.mesh is None:
        teacher.model.to(processes.trains_on)
        return
    whole = whole_parameters(teacher.model, processes)
    for layer in reversed(layers(teacher.model)):
        fully_shard(layer, mesh=processes.mesh)
    # The head is read after the pass, so what is left over stays whole from the first on.
    fully_shard(teacher, mesh=processes.mesh, reshard_after_forward=False)
    fill_parts(teacher, teacher.model, whole, processes)


def kept_rows(student: ModelDirectory, teacher: ModelDirectory) -> Indices | None:
    """The teacher's number of each token of the student, [student's vocab]; None if all are kept.

    Both are traced to the first original that they come from, which may be the teacher itself.

    Raises UserError where the student was not cut from this teacher.
    """
    (first, ours), (other, theirs) = _vocabulary(student), _vocabulary(teacher)
    if first != other:
        raise UserError(
            f"{student.path}: not cut from {teacher.path}; a teacher is the model that its student "
            "comes from"
        )
    if theirs is None:
        return None if ours is None else ours.keep
    kept = np.arange(theirs.size) if ours is None else ours.keep
    if np.array_equal(kept, theirs.keep):
        return None
    number = {int(token): at for at, token in enumerate(theirs.keep)}
    if missing := [int(token) for token in kept if int(token) not in number]:
        raise UserError(
            f"{student.path}: {teacher.path} cannot teach it, which lacks {len(missing):,} of its "
            "tokens"
        )
    return np.array([number[int(token)] for token in kept], dtype=np.int64)


def _vocabulary(model: ModelDirectory) -> tuple[str, AxisCut | None]:
    """Fingerprint of the first original of a model, and which of its tokens are left."""
    path = model.path / ORIGIN_FILE
    if not path.is_file():
        return model.checkpoint.fingerprint, None
    origin = Cut.load(path)
    return origin.model, origin.axes.get("vocab")
