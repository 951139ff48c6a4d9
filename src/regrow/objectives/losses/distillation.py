"""Distillation: learn from a teacher's predictions and from the text.

For each predicted token the loss is ``(1 - w) * cross-entropy + w * T**2 * KL(teacher || student)``
(Hinton et al. 2015, "Distilling the knowledge in a neural network"). The distributions of the
divergence are at temperature T; the factor T**2 keeps the scale of the gradients. Distillation
works with every objective whose loss is a cross-entropy of tokens.

A teacher may have more tokens than its student (`regrow.objectives.losses.student_tokens`). Where
it says nothing, the loss of a token is its cross-entropy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.objectives.losses.chunked import capped_logits, product_dtype, summed_over_blocks
from regrow.objectives.losses.cross_entropy import LOGITS_AT_ONCE
from regrow.objectives.losses.head import Head, head_of
from regrow.objectives.losses.loss import TensorBatch, TokenLoss
from regrow.objectives.losses.student_tokens import StudentTokens


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
class Taught:
    """What a teacher predicts.

    Attributes:
        predictions: Of those of the student's predicted tokens that the teacher predicts too.
        is_told: Which tokens these are, [predicted tokens of the student]; None for all.
        tokens: The student's tokens; None if teacher and student have the same.
    """

    predictions: Predictions
    is_told: Tensor | None = None
    tokens: StudentTokens | None = None


class Teacher(nn.Module):
    """A model that is not trained, and whose predictions a student learns.

    Args:
        model: In evaluation mode, on the student's device.
        tokens: The student's tokens; None if teacher and student have the same.
        identity: Hash of its weights, and of the student's tokens.
    """

    def __init__(self, model: nn.Module, tokens: StudentTokens | None, identity: str) -> None:
        super().__init__()
        self.model, self.tokens, self.identity = model, tokens, identity
        self.student_vocab = len(head_of(model).weight if tokens is None else tokens.rows)
        """The size of the student's vocabulary that this teacher is for."""

    def forward(self, loss: TokenLoss, batch: TensorBatch) -> Taught:
        """What it predicts of a batch in the student's tokens."""
        is_told = None
        if self.tokens is not None:
            batch, is_told = self.tokens.for_teacher(batch)
        hidden, _ = loss.predicted(self.model, batch)
        return Taught(Predictions(hidden, head_of(self.model)), is_told, self.tokens)


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
        tokens, known = len(head_of(model).weight), self.teacher.student_vocab
        if tokens != known:
            raise UserError(
                f"distill: the student has {tokens:,} tokens, its teacher knows {known:,} of them; "
                "only a teacher that knows all can teach it"
            )

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            taught = self.teacher(self.loss, batch)
        hidden, targets = self.loss.predicted(model, batch)
        return summed_distillation(
            Predictions(hidden, head_of(model)), taught, targets,
            weight=self.weight, temperature=self.temperature,
        )  # fmt: skip


def summed_distillation(
    student: Predictions,
    taught: Taught,
    targets: Tensor,
    *,
    weight: float,
    temperature: float = 1.0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """``(1 - weight) * cross-entropy + weight * temperature**2 * KL`` in nats.

    The cross-entropy alone where the teacher predicts nothing. The sum over tokens, and the loss of
    each token, [tokens], as from `summed_over_blocks`. Only the student gets gradients.

    Args:
        student: Predictions of the model that is trained.
        taught: Those of the teacher.
        targets: Token ids, int64, [tokens].
        weight: Weight of the divergence from the teacher, from 0 to 1.
        temperature: Of both distributions.
        logits_at_once: Upper bound on the number of logits of both models in memory.
    """
    head, teacher = student.head, taught.predictions.head
    told = taught.predictions.hidden.detach()
    product = product_dtype(told)
    wide = torch.promote_types(product, torch.float32)
    states = (told * teacher.input_scale).to(product)
    matrix = teacher.weight.detach().to(product)
    offsets = None if teacher.bias is None else teacher.bias.detach().to(wide)
    is_told, is_warm = taught.is_told, temperature != 1
    has_text = weight < 1 or is_told is not None
    told_before = [] if is_told is None else [0, *is_told.cumsum(0).tolist()]

    def teacher_logs(part: slice, dtype: torch.dtype) -> Tensor:
        """The teacher's log probabilities of these of its predictions, [tokens, vocab]."""
        logits = capped_logits(states[part], matrix, offsets, teacher.scale, teacher.softcap)
        if taught.tokens is None:
            return torch.log_softmax(logits.div_(temperature).to(dtype), -1)
        shares = taught.tokens.probabilities(torch.softmax(logits.to(dtype), -1))
        logs = shares.clamp_min_(torch.finfo(dtype).tiny).log_()
        return torch.log_softmax(logs.div_(temperature), -1) if is_warm else logs

    def block_loss(
        logits: Tensor, part: slice, needs_gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        student_logs = torch.log_softmax(logits / temperature if is_warm else logits, -1)
        learned: Tensor | float = weight
        if is_told is None:
            logs = teacher_logs(part, logits.dtype)
        else:
            # Where the teacher says nothing it is as if it said what the student says.
            logs, here = student_logs.clone(), is_told[part]
            of_teacher = slice(told_before[part.start], told_before[part.start + len(here)])
            logs[here] = teacher_logs(of_teacher, logits.dtype)
            learned = weight * here[:, None].to(logits.dtype)
        probabilities = logs.exp()
        divergence = logs.sub_(student_logs).mul_(probabilities).sum(-1).double()
        del logs
        loss = weight * temperature**2 * divergence

        target, text = targets[part, None], 1 - learned
        text_logs = torch.log_softmax(logits, -1) if is_warm and has_text else student_logs
        if has_text:
            loss -= (text * text_logs.gather(1, target))[:, 0]
        if not needs_gradient:
            return loss, None
        error = student_logs.exp_()
        if is_warm:
            error *= learned * temperature
            if has_text:
                error += text_logs.exp_().mul_(text)
        error -= probabilities.mul_(learned * temperature)
        if has_text:
            error.scatter_add_(1, target, error.new_ones(target.shape).mul_(text).neg_())
        return loss, error

    return summed_over_blocks(
        student.hidden * head.input_scale if head.input_scale != 1.0 else student.hidden,
        head.weight, block_loss, bias=head.bias, scale=head.scale, softcap=head.softcap,
        block=max(1, logits_at_once // (len(head.weight) + len(teacher.weight))),
    )  # fmt: skip
