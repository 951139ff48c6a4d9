"""Settings of a mixture that follows held-out losses while a training runs."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from regrow.training.mixing.dynamic_mixture import (
    OPENBA_START,
    RULES,
    DynamicMixture,
    Numbers,
    RuleName,
)

DENOISERS = tuple(OPENBA_START)
"""The denoisers of UL2, in order."""

_Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Loss = Annotated[float, Field(allow_inf_nan=False)]


class MixtureSettings(BaseModel):
    """A mixture that follows held-out losses (`docs/objectives.md`).

    Attributes:
        rule: `stable`, `paper` (algorithm 1 of the OpenBA-V2 report), or `code` (as released).
        start: Weights by component, for the first samples. None takes, for domains, the weights of
            `data.train`; for denoisers, equal weights with `stable`, and those of the released
            code with `paper` or `code`.
        references: Losses to get back to, by component, in nats per token. None takes the losses
            of the model that the run begins with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: RuleName = "stable"
    start: dict[str, _Weight] | None = None
    references: dict[str, _Loss] | None = None

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError unless `start` and `references` have exactly these components."""
        for key, given in (("start", self.start), ("references", self.references)):
            if given is not None and given.keys() != set(names):
                raise ValueError(f"{key}: {', '.join(given) or 'none'}; give {', '.join(names)}")

    def mixture(self, default_start: Numbers, measured: Numbers | None) -> DynamicMixture:
        """A mixture of the components of `default_start`.

        `measured`: the references, if the settings give none.
        """
        start, references = self.start or default_start, self.references or measured
        if references is None:
            raise ValueError("no references, neither given nor measured")
        return DynamicMixture(
            RULES[self.rule],
            {name: start[name] for name in default_start},
            {name: references[name] for name in default_start},
        )

    @property
    def denoisers_start(self) -> Numbers:
        """The first weights of the denoisers, if the settings give none."""
        return dict.fromkeys(DENOISERS, 1.0) if self.rule == "stable" else OPENBA_START


def _expand_dynamic(value: Any) -> Any:
    return {} if value == "dynamic" else value


DomainSettings = Annotated[MixtureSettings, BeforeValidator(_expand_dynamic)]
"""`dynamic` stands for the defaults."""
