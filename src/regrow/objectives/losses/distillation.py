"""Learn what a teacher says beside what the text says.

For each predicted token the loss is ``(1 - w) * cross-entropy + w * T**2 * KL(teacher || student)``
in which the divergence is that of the distributions at temperature T (Hinton et al. 2015,
"Distilling the knowledge in a neural network"; T**2 keeps the size of the gradients). It is taken
wherever the objective predicts a token: of a text, of the part after a prefix, of a target.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.objectives.losses.chunked import capped_logits, product_dtype, summed_over_blocks
from regrow.objectives.losses.cross_entropy import LOGITS_AT_ONCE
from regrow.objectives.losses.head import Head, head_of
from regrow.objectives.losses.objective import PredictsTokens, TensorBatch

_IDS = ("input_ids", "decoder_input_ids")
"""What of a batch a model reads as tokens."""


class Teacher(nn.Module):
    """A model that is not trained, read in one forward pass.

    Where the student has fewer tokens, the teacher reads the student's own tokens by their old
    numbers: that is a valid way to write the text, if not always the one that its tokenizer would
    take. Of what it says next the tokens that are left count, and their probabilities sum to 1.

    Args:
        model: In evaluation mode, on the student's device.
        rows: The teacher's number of each token of the student, [student's vocab]; None where the
            numbers are the same.
        identity: Hash of its weights and rows.
    """

    def __init__(self, model: nn.Module, rows: Tensor | None, identity: str) -> None:
        super().__init__()
        self.model, self.rows, self.identity = model, rows, identity
        self.tokens = len(head_of(model).weight if rows is None else rows)
        """How many of the student's tokens it knows."""

    def forward(self, objective: PredictsTokens, batch: TensorBatch) -> tuple[Tensor, Head]:
        """What its head reads where a token is predicted, [tokens, hidden], and that head."""
        rows, head = self.rows, head_of(self.model)
        if rows is not None:
            batch = batch | {name: rows[batch[name]] for name in _IDS if name in batch}
            bias = None if head.bias is None else head.bias[rows]
            head = replace(head, weight=head.weight[rows], bias=bias)
        hidden, _ = objective.predicted(self.model, batch)
        return hidden, head


@dataclass(frozen=True, eq=False)
class Distilled:
    """An objective whose tokens are learned from the text and from a teacher.

    Attributes:
        objective: Which tokens are predicted, and from what.
        weight: Of the divergence from the teacher, from 0 to 1; the text has the rest.
        temperature: Above 1, what the teacher thinks less likely counts for more.
    """

    objective: PredictsTokens
    teacher: Teacher
    weight: float
    temperature: float

    @property
    def identity(self) -> str:
        return identity_of(
            "distillation",
            objective=self.objective.identity,
            teacher=self.teacher.identity,
            weight=self.weight,
            temperature=self.temperature,
        )

    def check(self, model: nn.Module) -> None:
        self.objective.check(model)
        tokens = len(head_of(model).weight)
        if tokens != self.teacher.tokens:
            raise UserError(
                f"distill: the student has {tokens:,} tokens, its teacher knows "
                f"{self.teacher.tokens:,} of them; only a teacher that knows all can teach it"
            )

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            told, teacher = self.teacher(self.objective, batch)
        hidden, targets = self.objective.predicted(model, batch)
        return summed_distillation(
            hidden, head_of(model), targets, told, teacher,
            weight=self.weight, temperature=self.temperature,
        )  # fmt: skip


def summed_distillation(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    told: Tensor,
    teacher: Head,
    *,
    weight: float,
    temperature: float = 1.0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """``(1 - weight) * cross-entropy + weight * temperature**2 * KL``, summed over tokens, in nats.

    And that of each, [tokens], as `summed_over_blocks` has it. Gradients reach the student alone.

    Args:
        hidden: What the student's head reads, [tokens, student's hidden].
        targets: Token ids, int64, [tokens].
        told: What the teacher's head reads for the same tokens, [tokens, teacher's hidden].
        teacher: Its head, of as many tokens as the student's.
        logits_at_once: Upper bound on the logits of both in memory.
    """
    product = product_dtype(told)
    wide = torch.promote_types(product, torch.float32)
    states = (told.detach() * teacher.input_scale).to(product)
    matrix = teacher.weight.detach().to(product)
    offsets = None if teacher.bias is None else teacher.bias.detach().to(wide)
    of_text, is_warm = 1 - weight, temperature != 1

    def of_block(logits: Tensor, part: slice, wanted: bool) -> tuple[Tensor, Tensor | None]:
        said = capped_logits(states[part], matrix, offsets, teacher.scale, teacher.softcap)
        teaches = torch.log_softmax(said.div_(temperature).to(logits.dtype), -1)
        del said
        probabilities = teaches.exp()
        knows = torch.log_softmax(logits / temperature if is_warm else logits, -1)
        divergence = teaches.sub_(knows).mul_(probabilities).sum(-1).double()
        loss = weight * temperature**2 * divergence

        target = targets[part, None]
        logs = torch.log_softmax(logits, -1) if is_warm and of_text else knows
        if of_text:
            loss -= of_text * logs.gather(1, target)[:, 0]
        if not wanted:
            return loss, None
        error = knows.exp_()
        if is_warm:
            error *= weight * temperature
            if of_text:
                error.add_(logs.exp_(), alpha=of_text)
        error.sub_(probabilities, alpha=weight * temperature)
        if of_text:
            error.scatter_add_(1, target, error.new_full(target.shape, -of_text))
        return loss, error

    return summed_over_blocks(
        hidden * head.input_scale if head.input_scale != 1.0 else hidden,
        head.weight, of_block, bias=head.bias, scale=head.scale, softcap=head.softcap,
        block=max(1, logits_at_once // (2 * len(head.weight))),
    )  # fmt: skip
