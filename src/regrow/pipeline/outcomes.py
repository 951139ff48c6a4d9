"""Whether a recovery lowered the held-out losses, from the entries of a ledger."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from regrow.pipeline.ledger import Entry
from regrow.pipeline.stage_steps import StageSteps
from regrow.report.records import Outcome

_OTHER_TASK = "what is taken out"
"""Bits per byte are then of another task than the loss per token."""

Losses = Mapping[str, Mapping[str, Any]]
"""The held-out losses by text, as the ledger has them (`regrow.evaluation.heldout.HeldoutLoss`)."""


def measured_before(entries: Mapping[str, Entry], stage: str, previous: str) -> Entry | None:
    """The entry with the losses of the model from which the recovery of a stage starts.

    It is the cut model; in a stage without a cut, the model of the stage before, `previous`.
    """
    before = StageSteps(entries, previous)
    return StageSteps(entries, stage).measure_cut or before.measure or before.measure_cut


def bits_per_nat(loss: Mapping[str, Any]) -> float | None:
    """Bits per byte for each nat per token, on one text with one tokenizer.

    None if the two are not of the same task, as of an encoder-decoder.
    """
    nats, bits = loss["loss_per_token"], loss["bits_per_byte"]
    if loss["predicts"] == _OTHER_TASK or not nats or not math.isfinite(bits / nats):
        return None
    return float(bits / nats)


def heldout_words(loss: float, factor: float | None) -> str:
    """A held-out loss in nats per token in words, in bits per byte where `factor` is known."""
    if factor is None:
        return f"{loss:.3f} nats per token"
    return f"{loss * factor:.3f} bits per byte"


def losses_words(losses: Losses) -> str:
    """The held-out losses in words: `docs 0.902, prose 1.305 bits per byte`.

    Where a text has no bits per byte, they are nats per token.
    """
    units = {"bits_per_byte": "bits per byte", "loss_per_token": "nats per token"}
    by_byte = all(loss["bits_per_byte"] is not None for loss in losses.values())
    key = "bits_per_byte" if by_byte else "loss_per_token"
    told = ", ".join(f"{text} {loss[key]:.3f}" for text, loss in losses.items())
    return f"{told} {units[key]}"


def outcome(before: Losses, after: Losses, kept: Literal["trained", "before"]) -> Outcome:
    """Compare the losses before and after a recovery, for the texts that both have.

    Models that predict every token, or answers, are compared by bits per byte. On text, an
    encoder-decoder is compared by the loss on the spans, because its bits per byte are of another
    task than the training.
    """
    known = [losses[text] for losses in (before, after) for text in before if text in after]
    by_byte = all(loss["predicts"] != _OTHER_TASK for loss in known)
    key = "bits_per_byte" if by_byte else "loss_per_token"
    return Outcome(
        unit="bits per byte" if by_byte else "nats per token",
        texts={text: (before[text][key], after[text][key]) for text in before if text in after},
        kept=kept,
    )


def recovery_outcome(entries: Mapping[str, Entry], stage: str, previous: str) -> Outcome | None:
    """The outcome of the recovery of a stage; None if it is not done.

    If the trained weights are not kept, their losses are known only for the held-out texts of that
    time. Texts that changed since are then left out.
    """
    steps, before = StageSteps(entries, stage), measured_before(entries, stage, previous)
    recover = steps.recover
    # Ledgers from before outcomes were added do not have the key.
    if recover is None or before is None or "kept" not in recover.outputs:
        return None
    kept = recover.outputs["kept"]
    if kept == "trained" and steps.measure is not None:
        after = steps.measure.heldout_losses
    else:
        then, now = recover.heldout_hashes, before.heldout_hashes
        losses = recover.heldout_losses
        after = {text: loss for text, loss in losses.items() if then[text] == now.get(text)}
    # Ledgers from before stages had their own conversations do not have the key.
    others = recover.outputs.get("others", ())
    judged = {t: loss for t, loss in before.heldout_losses.items() if t not in others}
    return outcome(judged, after, kept)
