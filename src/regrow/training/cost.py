"""What a training costs, by the mean sample of its objective."""

from collections.abc import Callable, Collection, Mapping
from statistics import fmean

from regrow.architectures import Layout
from regrow.architectures.flops import Sample, forward_flops, training_flops
from regrow.objectives.names import objective_name
from regrow.objectives.rows.denoisers import SPAN_CORRUPTION, UL2, Denoiser
from regrow.objectives.rows.optimized_ul2 import fixed_lengths
from regrow.training.settings import RecoverySettings


def flops_of_token(
    settings: RecoverySettings, layout: Layout, teacher: Layout | None = None
) -> float:
    """Operations of training on one token of text, by the mean sample of the objective.

    With the forward pass of the teacher, where there is one.
    Raises UserError where the objective is not for such a model.
    """
    _, sample = mean_sample(settings, layout)
    taught = 0 if teacher is None else forward_flops(teacher, sample).total
    return (training_flops(layout, sample, sample.text) + taught) / sample.text


def mean_sample(settings: RecoverySettings, layout: Layout) -> tuple[str, Sample]:
    """The objective, and its mean sample. Raises UserError where it is not for such a model."""
    both = layout.blueprint.is_encoder_decoder
    name = objective_name(settings.objective, is_encoder_decoder=both)
    sample = _SAMPLES[name](settings.row_length)
    if not both and sample.encoder:
        # In one row, without the end of the source, and nothing after the last that is read.
        sample = Sample(sample.text, decoder=sample.encoder - 1 + sample.decoder)
    return name, sample


def _corrupted(text: int, denoisers: Collection[Denoiser] = (SPAN_CORRUPTION,)) -> Sample:
    """A text with spans taken out, by the mean denoiser.

    A sentinel for each span on either side, and an end.
    """
    counts = [denoiser.counts(text) for denoiser in denoisers]
    noise = round(fmean(noise for noise, _ in counts))
    spans = round(fmean(spans for _, spans in counts))
    return Sample(text, decoder=noise + spans + 1, encoder=text - noise + spans + 1)


def _optimized(text: int) -> Sample:
    """The mean row of one document, with as many sentinels as T5 and OpenBA have."""
    fixed = fixed_lengths(_SENTINELS, text)
    return Sample(fixed.mean_text, decoder=fixed.target, encoder=fixed.source(prefixed=True))


_SENTINELS = 100


_SAMPLES: Mapping[str, Callable[[int], Sample]] = {
    "causal": lambda text: Sample(text, decoder=text),
    "prefix-lm": lambda text: Sample(text, decoder=text),
    "fill-in-the-middle": lambda text: Sample(text, decoder=text),
    "span-corruption": _corrupted,
    "ul2": lambda text: _corrupted(text, UL2.values()),
    "d-ul2": lambda text: _corrupted(text, UL2.values()),
    "o-ul2": _optimized,
}
"""By objective, and by the most tokens of text in a row."""
