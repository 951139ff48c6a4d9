"""Load the teacher of a recovery from its directory."""

from typing import TYPE_CHECKING

import numpy as np

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.precision import Precision, weights_dtype
from regrow.cuts.cut import AxisCut, Cut
from regrow.cuts.ranges import Indices
from regrow.surgery.result_files import ORIGIN_FILE
from regrow.tokenizers.encoding import open_tokenizer
from regrow.tokenizers.spellings import is_space, spellings

if TYPE_CHECKING:
    import torch

    from regrow.objectives.losses.distillation import Teacher
    from regrow.objectives.losses.student_tokens import StudentTokens
    from regrow.training.distributed.processes import Processes


def load_teacher(
    model: ModelDirectory, student: ModelDirectory, precision: Precision, processes: "Processes"
) -> "Teacher":
    """Load `model` as the teacher of `student`, which was cut from it.

    Its weights are in bfloat16 if matrix products are. Several processes must all call this; they
    shard the teacher as they shard the model that is trained.

    Raises UserError if the student was not cut from this teacher, or if the teacher transforms its
    logits in a way that `Head` does not support.
    """
    from regrow.objectives.losses.distillation import Teacher
    from regrow.objectives.losses.head import check_head
    from regrow.training.distributed.sharded_loading import load_in_first_process

    device = processes.training_device
    tokens = processes.in_all(lambda: _student_tokens(student, model, device))
    dtype = weights_dtype(precision, device)
    loaded = load_in_first_process(model.path, dtype, processes)
    processes.in_first(lambda: check_head(loaded))
    identity = processes.in_all(lambda: model.checkpoint).fingerprint
    if tokens is not None:
        identity = f"{identity} for tokens {tokens.identity}"
    teacher = Teacher(loaded.requires_grad_(False), tokens, identity)
    shard_teacher(teacher, processes)
    return teacher


def shard_teacher(teacher: "Teacher", processes: "Processes") -> None:
    """Shard the teacher over all processes; a single process moves it to its training device."""
    from torch.distributed.fsdp import fully_shard

    from regrow.models.layers import layers
    from regrow.training.distributed.sharded_loading import distribute_parameters, full_parameters

    if processes.mesh is None:
        teacher.model.to(processes.training_device)
        return
    full = full_parameters(teacher.model, processes)
    for layer in reversed(layers(teacher.model)):
        fully_shard(layer, mesh=processes.mesh)
    # The head is read after the forward pass, so the parameters outside the layers stay gathered.
    fully_shard(teacher, mesh=processes.mesh, reshard_after_forward=False)
    distribute_parameters(teacher, teacher.model, full, processes)


def teacher_token_ids(student: ModelDirectory, teacher: ModelDirectory) -> Indices | None:
    """The teacher's id of each token of the student, [student's vocab]; None if all are the same.

    Both are traced to the original model that they were cut from, which may be the teacher itself.

    Raises UserError if the student was not cut from this teacher.
    """
    student_origin, student_vocab = _origin(student)
    teacher_origin, teacher_vocab = _origin(teacher)
    if student_origin != teacher_origin:
        raise UserError(
            f"{student.path}: not cut from {teacher.path}; a teacher is the model that its student "
            "comes from"
        )
    if teacher_vocab is None:
        return None if student_vocab is None else student_vocab.keep
    kept = np.arange(teacher_vocab.size) if student_vocab is None else student_vocab.keep
    if np.array_equal(kept, teacher_vocab.keep):
        return None
    teacher_id = {int(token): at for at, token in enumerate(teacher_vocab.keep)}
    if missing := [int(token) for token in kept if int(token) not in teacher_id]:
        raise UserError(
            f"{student.path}: {teacher.path} cannot teach it, which lacks {len(missing):,} of its "
            "tokens"
        )
    return np.array([teacher_id[int(token)] for token in kept], dtype=np.int64)


def _student_tokens(
    student: ModelDirectory, teacher: ModelDirectory, device: "torch.device"
) -> "StudentTokens | None":
    """The tokens of a student; None if its teacher has the same. Raises as `teacher_token_ids`."""
    import torch

    from regrow.objectives.losses.student_tokens import StudentTokens

    rows = teacher_token_ids(student, teacher)
    if rows is None:
        return None
    before, after = (open_tokenizer(each.path) for each in (teacher, student))
    _, vocab = _origin(student)
    tokens = len(rows) if vocab is None else len(vocab.tokens)
    pieces = spellings(before, after, rows[:tokens].tolist())
    spaces = frozenset(token for token in pieces if is_space(before, token))
    return StudentTokens(torch.tensor(rows, device=device), pieces, spaces, len(rows) - tokens)


def _origin(model: ModelDirectory) -> tuple[str, AxisCut | None]:
    """The fingerprint of the original of a model, and which of the original's tokens it keeps."""
    path = model.path / ORIGIN_FILE
    if not path.is_file():
        return model.checkpoint.fingerprint, None
    origin = Cut.load(path)
    return origin.model, origin.axes.get("vocab")
