"""The mixtures of a recovery that follow held-out losses, from its settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError
from regrow.corpus.text import read_documents
from regrow.training.mixing.mixture_settings import DENOISERS
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    from regrow.corpus.samples import Samples
    from regrow.evaluation.heldout_components import HeldoutComponents
    from regrow.training.mixing.dynamic_mixtures import DynamicMixtures, Mixed

DENOISER, DOMAIN = "denoiser", "domain"
"""What there may be a mixture of."""

Losses = Mapping[str, Mapping[str, float]]
"""In nats per token, by kind of mixture, and by component."""


def open_mixtures(
    settings: RecoverySettings,
    samples: "Samples",
    tokenizer: Any,
    config: Any,
    heldout: Mapping[str, Path],
    measured: Losses,
) -> "DynamicMixtures | None":
    """What draws `samples` by what it measures on `heldout`, by name; None where nothing is to.

    `measured`: references, where the settings give none.
    Raises UserError where the text does not do.
    """
    from regrow.training.mixing.dynamic_mixtures import DynamicMixtures, FollowingMixture

    mixtures = {}
    rows: Any = samples
    for kind, mixing in settings.mixtures.items():
        if kind == DENOISER:
            mixed: Mixed = rows if hasattr(rows, "mix_from") else rows.pairs
            start = mixing.denoisers_start
        else:
            mixed, start = shares_of(samples)
        heldout_components = _heldout(kind, settings, tokenizer, config, heldout, [*start])
        mixtures[kind] = FollowingMixture(
            mixing.mixture(start, measured.get(kind)), heldout_components, mixed
        )
    return DynamicMixtures(mixtures, settings.measured_every) if mixtures else None


def measure_references(
    settings: RecoverySettings,
    model: Any,
    tokenizer: Any,
    heldout: Mapping[str, Path],
    domains: Sequence[str],
) -> dict[str, dict[str, float]]:
    """The losses of a model, by what they are of, for which the settings give no references.

    Raises UserError where the text does not do.
    """
    return {
        kind: _heldout(
            kind, settings, tokenizer, model.config, heldout,
            DENOISERS if kind == DENOISER else domains,
        ).losses(model)
        for kind, mixing in settings.mixtures.items()
        if mixing.references is None
    }  # fmt: skip


def shares_of(samples: Any) -> tuple[Any, dict[str, float]]:
    """The shares of the sources that samples are drawn from, and how they begin, by name."""
    rows = samples
    while (shares := getattr(rows, "shares", None)) is None:
        inner = [name for name in ("pairs", "packed", "windows") if hasattr(rows, name)]
        if not inner:
            raise UserError("domains: the sources of data.train have no weights to begin with")
        rows = getattr(rows, inner[0])
    return shares, dict(zip(shares.names, shares.changes[0][1], strict=True))


def _heldout(
    kind: str,
    settings: RecoverySettings,
    tokenizer: Any,
    config: Any,
    heldout: Mapping[str, Path],
    names: Sequence[str],
) -> "HeldoutComponents":
    from regrow.evaluation.heldout_components import heldout_denoisers, heldout_texts

    length, tokens = settings.row_length, settings.mixture_tokens
    if kind == DENOISER:
        texts = (text for path in heldout.values() for text in read_documents(path))
        return heldout_denoisers(texts, tokenizer, config, length, tokens, prefix=settings.prefix)
    by_name = {name: read_documents(heldout[name]) for name in names}
    return heldout_texts(by_name, tokenizer, config, length, tokens)
