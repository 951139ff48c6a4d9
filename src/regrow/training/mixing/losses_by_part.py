"""Training losses by denoiser and by domain, from those of single tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrow.corpus.samples import Parts
from regrow.objectives.losses.objective import TensorBatch, examples_of


@dataclass
class PartLosses:
    """Sums by part over the passes of a step, kept on the device.

    Attributes:
        parts: Of all samples of the step, in order, by what they are parts of.
        samples: How many there are.
    """

    parts: Mapping[str, Parts]
    samples: int
    device: torch.device
    _sums: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, part in self.parts.items():
            # Losses, and tokens.
            shape = (2, len(part.names))
            self._sums[kind] = torch.zeros(shape, dtype=torch.float64, device=self.device)

    def add(self, places: NDArray[np.int64], batch: TensorBatch, each: Tensor) -> None:
        """One pass: where its samples stand among all, and the loss of each token, [tokens]."""
        if not self.parts:
            return
        examples = examples_of(batch)
        both = torch.stack([each.double(), torch.ones_like(each, dtype=torch.float64)])
        for kind, part in self.parts.items():
            of = np.ascontiguousarray(part.of.reshape(self.samples, -1)[places]).reshape(-1)
            self._sums[kind].index_add_(1, torch.from_numpy(of).to(self.device)[examples], both)

    def sums(self) -> list[float]:
        """All of them in a line, to be added up over processes."""
        if not self.parts:
            return []
        return torch.cat([sums.reshape(-1) for sums in self._sums.values()]).tolist()

    def means(self, sums: Sequence[float]) -> dict[str, float]:
        """Nats per token by ``kind/part``, of parts that the step has tokens of, from `sums`."""
        found, first = {}, 0
        for kind, part in self.parts.items():
            many = len(part.names)
            losses, tokens = sums[first : first + many], sums[first + many : first + 2 * many]
            for name, loss, count in zip(part.names, losses, tokens, strict=True):
                if count:
                    found[f"{kind}/{name}"] = loss / count
            first += 2 * many
        return found
