"""Open the mixtures of a recovery that follow held-out losses, from its settings."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError
from regrow.corpus.encoding import TextWithSpecialTokens
from regrow.corpus.shares import DENOISER, DOMAIN
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout_text import HeldoutText
from regrow.training.mixing.mixture_settings import DENOISERS
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    from regrow.corpus.samples import Samples
    from regrow.evaluation.heldout_components import HeldoutComponents
    from regrow.training.mixing.training_mixtures import TrainingMixtures

Losses = Mapping[str, Mapping[str, float]]
"""Losses in nats per token, by kind of mixture, then by component."""


def open_mixtures(
    settings: RecoverySettings,
    samples: "Samples",
    tokenizer: Any,
    config: Any,
    heldout: Mapping[str, HeldoutText],
    measured: Losses,
) -> "TrainingMixtures | None":
    """The mixtures that decide how `samples` are drawn; None if the settings have none.

    `heldout`: held-out texts, by name. `measured`: references, if the settings give none.

    Raises UserError if the text is not enough, or the sources have no weights to begin with.
    """
    from regrow.corpus.samples import mixed_samples
    from regrow.training.mixing.training_mixtures import MeasuredMixture, TrainingMixtures

    mixtures = {}
    for kind, mixing in settings.mixtures.items():
        mixed = mixed_samples(samples, kind)
        if mixed is None:
            if kind == DOMAIN:
                raise UserError("domains: the sources of data.train have no weights to begin with")
            raise ValueError(f"{kind}: the samples of {settings.objective} have no such mixture")
        start: Mapping[str, float] = dict(zip(mixed.names, mixed.first, strict=True))
        if kind == DENOISER:
            start = mixing.denoisers_start
        texts = _documents(heldout)
        heldout_components = _heldout(kind, settings, tokenizer, config, texts, [*start])
        mixtures[kind] = MeasuredMixture(
            mixing.mixture(start, measured.get(kind)), heldout_components, mixed
        )
    return TrainingMixtures(mixtures, settings.mixture_interval) if mixtures else None


def measure_references(
    settings: RecoverySettings,
    model: Any,
    tokenizer: Any,
    heldout: Mapping[str, HeldoutText],
    domains: Sequence[str],
) -> dict[str, dict[str, float]]:
    """The losses of a model that serve as references, if the settings give none.

    `heldout`: held-out texts, by name. `domains`: the names of the sources.

    Raises UserError if the text is not enough.
    """
    return {
        kind: _heldout(
            kind, settings, tokenizer, model.config, _documents(heldout),
            DENOISERS if kind == DENOISER else domains,
        ).losses(model)
        for kind, mixing in settings.mixtures.items()
        if mixing.references is None
    }  # fmt: skip


def check_mixture_texts(
    settings: RecoverySettings,
    tokenizer: Any,
    config: Any,
    heldout: Mapping[str, HeldoutText],
    domains: Sequence[str],
) -> None:
    """Raise UserError if mixtures cannot be measured on the held-out texts.

    Arguments as of `measure_references`. No model is needed.
    """
    for kind in settings.mixtures:
        names = DENOISERS if kind == DENOISER else domains
        _heldout(kind, settings, tokenizer, config, _documents(heldout), names)


def _documents(heldout: Mapping[str, HeldoutText]) -> dict[str, Iterable[str]]:
    """The documents of each text, which can be read once."""
    found = {name: read_documents(text.path, text.reading) for name, text in heldout.items()}
    return {
        name: map(TextWithSpecialTokens, documents)
        if heldout[name].reading.special_tokens
        else documents
        for name, documents in found.items()
    }


def _heldout(
    kind: str,
    settings: RecoverySettings,
    tokenizer: Any,
    config: Any,
    documents: Mapping[str, Iterable[str]],
    names: Sequence[str],
) -> "HeldoutComponents":
    from regrow.evaluation.heldout_components import heldout_denoisers, heldout_texts

    length, tokens = settings.row_length, settings.mixture_tokens
    if kind == DENOISER:
        texts = chain.from_iterable(documents.values())
        return heldout_denoisers(texts, tokenizer, config, length, tokens, prefix=settings.prefix)
    by_name = {name: documents[name] for name in names}
    return heldout_texts(by_name, tokenizer, config, length, tokens)
