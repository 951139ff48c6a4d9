"""Distillation: learn from a teacher's predictions and from the text.

For each predicted token the loss is ``(1 - w) * cross-entropy + w * T**2 * KL(teacher || student)``
(Hinton et al. 2015, "Distilling the knowledge in a neural network"). The distributions of the
divergence are at temperature T; the factor T**2 keeps the scale of the gradients. Distillation
works with every objective whose loss is a cross-entropy of tokens.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.objectives.losses.chunked import capped_logits, product_dtype, summed_over_blocks
from regrow.objectives.losses.cross_entropy import LOGITS_AT_ONCE
from regrow.objectives.losses.head import Head, head_of
from regrow.objectives.losses.loss import TensorBatch, TokenLoss

_IDS = ("input_ids", "decoder_input_ids")
"""The arrays of a batch that a model reads as token ids."""


class Teacher(nn.Module):
    """A model that is not trained, and whose predictions a student learns.

    If the student has a smaller vocabulary, the teacher reads the student's tokens by the ids that
    they have in the teacher. These tokens spell the text correctly, but the teacher's own tokenizer
    would sometimes divide it differently. The teacher's probabilities are those of the student's
    tokens alone, normalised to sum to 1.

    Args:
        model: In evaluation mode, on the student's device.
        rows: The teacher's id of each token of the student, [student's vocab]; None if the ids are
            the same.
        identity: Hash of its weights and rows.
    """

    def __init__(self, model: nn.Module, rows: Tensor | None, identity: str) -> None:
        super().__init__()
        self.model, self.rows, self.identity = model, rows, identity
        self.tokens = len(head_of(model).weight if rows is None else rows)
        """The size of the student's vocabulary that this teacher is for."""

    def forward(self, loss: TokenLoss, batch: TensorBatch) -> tuple[Tensor, Head]:
        """The head's inputs at predicted tokens, [tokens, hidden], and the head."""
        rows, head = self.rows, head_of(self.model)
        if rows is not None:
            batch = batch | {name: rows[batch[name]] for name in _IDS if name in batch}
            bias = None if head.bias is None else head.bias[rows]
            head = replace(head, weight=head.weight[rows], bias=bias)
        hidden, _ = loss.predicted(self.model, batch)
        return hidden, head


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions of some tokens, before the head is applied.

    Attributes:
        hidden: The head's inputs, [tokens, hidden].
        head: From these to logits.
    """

    hidden: Tensor
    head: Head


@dataclass(frozen=True, eq=False)
class Distilled:
    """The loss of an objective, computed from the text and from a teacher.

    Attributes:
        loss: Decides which tokens are predicted, and from which inputs.
        teacher: The model to learn from.
        weight: Weight of the divergence from the teacher, from 0 to 1. The text has the rest.
        temperature: Of both distributions. Above 1, unlikely tokens count for more.
    """

    loss: TokenLoss
    teacher: Teacher
    weight: float
    temperature: float

    @property
    def identity(self) -> str:
        return identity_of(
            "distillation",
            objective=self.loss.identity,
            teacher=self.teacher.identity,
            weight=self.weight,
            temperature=self.temperature,
        )

    def check(self, model: nn.Module) -> None:
        self.loss.check(model)
        tokens = len(head_of(model).weight)
        if tokens != self.teacher.tokens:
            raise UserError(
                f"distill: the student has {tokens:,} tokens, its teacher knows "
                f"{self.teacher.tokens:,} of them; only a teacher that knows all can teach it"
            )

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            teacher = Predictions(*self.teacher(self.loss, batch))
        hidden, targets = self.loss.predicted(model, batch)
        return summed_distillation(
            Predictions(hidden, head_of(model)), teacher, targets,
            weight=self.weight, temperature=self.temperature,
        )  # fmt: skip


def summed_distillation(
    student: Predictions,
    teacher: Predictions,
    targets: Tensor,
    *,
    weight: float,
    temperature: float = 1.0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """``(1 - weight) * cross-entropy + weight * temperature**2 * KL`` in nats.

    The sum over tokens, and the loss of each token, [tokens], as from `summed_over_blocks`. Only
    the student gets gradients.

    Args:
        student: Predictions of the model that is trained.
        teacher: Predictions of the same tokens; its head has the same vocabulary size.
        targets: Token ids, int64, [tokens].
        weight: Weight of the divergence from the teacher, from 0 to 1.
        temperature: Of both distributions.
        logits_at_once: Upper bound on the number of logits of both models in memory.
    """
    head, taught = student.head, teacher.head
    product = product_dtype(teacher.hidden)
    wide = torch.promote_types(product, torch.float32)
    states = (teacher.hidden.detach() * taught.input_scale).to(product)
    matrix = taught.weight.detach().to(product)
    offsets = None if taught.bias is None else taught.bias.detach().to(wide)
    text_weight, is_warm = 1 - weight, temperature != 1

    def block_loss(
        logits: Tensor, part: slice, needs_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        teacher_logits = capped_logits(states[part], matrix, offsets, taught.scale, taught.softcap)
        teacher_logs = torch.log_softmax(teacher_logits.div_(temperature).to(logits.dtype), -1)
        del teacher_logits
        probabilities = teacher_logs.exp()
        student_logs = torch.log_softmax(logits / temperature if is_warm else logits, -1)
        divergence = teacher_logs.sub_(student_logs).mul_(probabilities).sum(-1).double()
        loss = weight * temperature**2 * divergence

        target = targets[part, None]
        logs = torch.log_softmax(logits, -1) if is_warm and text_weight else student_logs
        if text_weight:
            loss -= text_weight * logs.gather(1, target)[:, 0]
        if not needs_gradient:
            return loss, None
        error = student_logs.exp_()
        if is_warm:
            error *= weight * temperature
            if text_weight:
                error.add_(logs.exp_(), alpha=text_weight)
        error.sub_(probabilities, alpha=weight * temperature)
        if text_weight:
            error.scatter_add_(1, target, error.new_full(target.shape, -text_weight))
        return loss, error

    return summed_over_blocks(
        student.hidden * head.input_scale if head.input_scale != 1.0 else student.hidden,
        head.weight, block_loss, bias=head.bias, scale=head.scale, softcap=head.softcap,
        block=max(1, logits_at_once // (2 * len(head.weight))),
    )  # fmt: skip
