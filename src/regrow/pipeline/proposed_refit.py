"""The refit that a plan proposes for a cut: on how many tokens, and with how many passes."""

from dataclasses import dataclass

from regrow.architectures import Layout
from regrow.pipeline.plan_spec import PlanSpec
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.plan import PlannedStage
from regrow.surgery.refitting.memory import bytes_a_token
from regrow.surgery.requested_cut import is_refitted_by_default
from regrow.surgery.search.text import CHARACTERS_A_TOKEN

_DEFAULT: int = CutSpec.model_fields["calibration_tokens"].default
_PASSES = 4
"""The most that were measured (docs/benchmarks.md, Quality and Layers trained alone)."""
_OF_RECOVERY = 8
"""A refit reads so many times fewer tokens than the recovery trains: four passes then have half as
many tokens."""
_MOST = 131_072
_MOST_BYTES = 1 << 32
"""Of what a refit holds of its text in memory, unless it reads as few tokens as by default."""
_STEP = 1_024


@dataclass(frozen=True)
class ProposedRefit:
    """A refit.

    Attributes:
        tokens: Of calibration text.
        passes: Over it, in which each layer is trained alone.
    """

    tokens: int
    passes: int = 0

    def options(self) -> dict[str, str]:
        """The options of the cut that differ from the defaults, as YAML."""
        found = {} if self.tokens == _DEFAULT else {"calibration_tokens": f"{self.tokens:_}"}
        return {**found, "refit_passes": f"{self.passes}"} if self.passes else found


def propose_refit(
    layout: Layout, stage: PlannedStage, recovery: int, spec: PlanSpec, characters: int | None
) -> ProposedRefit:
    """The refit of a stage's cut.

    Layers are trained alone only in decoders whose cuts are refitted by default or that have
    experts, and if the text has about as many tokens as a cut reads by default: fewer teach them
    little. They were no better for it in a small OpenBA (docs/benchmarks.md, Quality and Experts).

    `layout`: of the original. `recovery`: tokens that the stage then trains on. `characters`: of
    the text; None if it is not known.
    """
    kinds = {layout.blueprint.axis(name).kind for name in stage.sizes}
    gains = is_refitted_by_default(layout, stage.sizes) or "expert" in kinds
    available = None if characters is None else characters // CHARACTERS_A_TOKEN
    enough = available is None or available >= _DEFAULT
    if not (gains and enough) or layout.blueprint.is_encoder_decoder:
        return ProposedRefit(spec.calibration_tokens)
    most = min(_MOST, _MOST_BYTES // bytes_a_token(layout, stage.sizes), available or _MOST)
    tokens = min(recovery // _OF_RECOVERY, most) // _STEP * _STEP
    return ProposedRefit(max(tokens, spec.calibration_tokens, _DEFAULT), _PASSES)
