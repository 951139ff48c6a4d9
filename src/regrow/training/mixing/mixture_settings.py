"""How a mixture follows what is measured while a training runs."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from regrow.objectives.dynamic_mixture import OPENBA_START, RULES, DynamicMixture, Numbers, RuleName

DENOISERS = tuple(OPENBA_START)
"""Those of UL2, in order."""

_Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Loss = Annotated[float, Field(allow_inf_nan=False)]


class MixtureSettings(BaseModel):
    """A mixture that follows held-out losses (`docs/objectives.md`).

    Attributes:
        rule: `stable`, `paper` (algorithm 1 of the OpenBA-V2 report), or `code` (as released).
        start: Weights by component, for the first samples. None begins evenly, except that
            denoisers with `paper` or `code` begin as in the released code, and domains with the
            weights of `data.train`.
        references: Losses to get back to, by component, in nats per token. None takes the losses
            of the model that the run begins with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: RuleName = "stable"
    start: dict[str, _Weight] | None = None
    references: dict[str, _Loss] | None = None

    def check(self, names: Sequence[str]) -> None:
        """Raise ValueError where a weight or a reference is not for exactly these components."""
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
        """Weights of the denoisers where none are given."""
        return dict.fromkeys(DENOISERS, 1.0) if self.rule == "stable" else OPENBA_START


def _written_out(value: Any) -> Any:
    return {} if value == "dynamic" else value


DomainSettings = Annotated[MixtureSettings, BeforeValidator(_written_out)]
"""`dynamic` stands for the defaults."""
