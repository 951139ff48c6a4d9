"""The compute that a training costs, from the mean sample of its objective."""

from regrow.architectures import Layout
from regrow.architectures.flops import SampleShape, forward_flops, training_flops
from regrow.objectives.registry import OBJECTIVES, objective_name
from regrow.training.settings import RecoverySettings


def flops_per_token(
    settings: RecoverySettings, layout: Layout, teacher: Layout | None = None
) -> float:
    """Floating-point operations of training on one token of text.

    Includes the forward pass of the teacher, if there is one.
    Raises UserError if such a model cannot learn the objective.
    """
    _, sample = mean_sample(settings, layout)
    taught = 0 if teacher is None else forward_flops(teacher, sample).total
    return (training_flops(layout, sample, sample.text) + taught) / sample.text


def mean_sample(settings: RecoverySettings, layout: Layout) -> tuple[str, SampleShape]:
    """The name of the objective, and the shape of its mean sample in this model.

    Raises UserError if such a model cannot learn the objective.
    """
    is_encoder_decoder = layout.blueprint.is_encoder_decoder
    name = objective_name(settings.objective, is_encoder_decoder=is_encoder_decoder)
    sample = OBJECTIVES[name].mean_sample(settings.row_length)
    if not is_encoder_decoder and sample.encoder:
        # A decoder reads source and target in one row, without the eos of the source.
        sample = SampleShape(sample.text, decoder=sample.encoder - 1 + sample.decoder)
    return name, sample
