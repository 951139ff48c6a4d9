"""Training losses by denoiser and by domain, from the losses of single tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrow.corpus.samples import Components
from regrow.objectives.losses.loss import TensorBatch, examples_of


@dataclass
class ComponentLosses:
    """Sums of losses by component over the micro-batches of one step, on the device.

    Attributes:
        components: The component of each sample of the step, in order, by kind of mixture.
        samples: Number of samples of the step.
    """

    components: Mapping[str, Components]
    samples: int
    device: torch.device
    _sums: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, components in self.components.items():
            # Row 0 has the losses, row 1 the numbers of tokens.
            shape = (2, len(components.names))
            self._sums[kind] = torch.zeros(shape, dtype=torch.float64, device=self.device)

    def add(self, part: NDArray[np.int64], batch: TensorBatch, losses: Tensor) -> None:
        """Add the losses of one micro-batch.

        `part`: indices of its samples among the samples of the step, [samples]. `losses`: of each
        predicted token, [tokens].
        """
        if not self.components:
            return
        examples = examples_of(batch)
        both = torch.stack([losses.double(), torch.ones_like(losses, dtype=torch.float64)])
        for kind, components in self.components.items():
            by_sample = components.indices.reshape(self.samples, -1)
            indices = np.ascontiguousarray(by_sample[part]).reshape(-1)
            component_of_token = torch.from_numpy(indices).to(self.device)[examples]
            self._sums[kind].index_add_(1, component_of_token, both)

    def sums(self) -> list[float]:
        """All sums in one list, to be summed over processes."""
        if not self.components:
            return []
        return torch.cat([sums.reshape(-1) for sums in self._sums.values()]).tolist()

    def means(self, sums: Sequence[float]) -> dict[str, float]:
        """Nats per token by ``kind/component``; components without a token are left out.

        `sums`: the lists of `sums`, summed over processes.
        """
        means, first = {}, 0
        for kind, components in self.components.items():
            count = len(components.names)
            losses, tokens = sums[first : first + count], sums[first + count : first + 2 * count]
            for name, loss, predicted in zip(components.names, losses, tokens, strict=True):
                if predicted:
                    means[f"{kind}/{name}"] = loss / predicted
            first += 2 * count
        return means
