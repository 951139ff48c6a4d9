"""Settings of a training by LoRA."""

from pydantic import Field

from regrow.common.fields import Size, Strict


class LoraSettings(Strict):
    """Train small matrices beside frozen weights (LoRA; Hu et al. 2021), and add them at the end.

    A layer's matrix `W` then computes with `W + alpha / rank * B @ A`, of which only `A` [rank,
    inputs] and `B` [outputs, rank] are trained.

    Attributes:
        rank: Rows of each `A`.
        alpha: Scale of what is added, before it is divided by `rank`; None takes twice the rank.
        targets: The last part of the names of the matrices, such as `q_proj`; None takes all
            matrices of the layers.
    """

    rank: Size
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)

    @property
    def scale(self) -> float:
        """The factor of `B @ A`."""
        return (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank

    def words(self) -> str:
        """Such as `LoRA of rank 8`."""
        return f"LoRA of rank {self.rank}"
