"""Train back what a cut cost: from one model directory to another.

A decoder learns to predict the next token of packed documents; an encoder-decoder learns to fill
in spans taken out of them.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint.reader import open_checkpoint
from regrow.loading import load_model, load_tokenizer
from regrow.measuring import loss
from regrow.pruning import bind_checkpoint
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    from regrow.corpus.samples import Samples
    from regrow.objectives.objective import Objective
    from regrow.training.loop import StepReport, TrainingResult


def recover(
    source: Path,
    out: Path,
    settings: RecoverySettings,
    documents: Iterable[str],
    *,
    seed: int,
    training: Path,
    heldout: Path,
    heldout_identity: str,
    on_step: Callable[["StepReport"], None],
) -> "TrainingResult":
    """Train the model of `source` and write it to `out`, as `source` in all but the weights.

    `training`: directory for checkpoints; a killed recovery goes on from the last. `heldout`: the
    text that is measured on the way, where the settings ask for that, and its hash.
    Raises UserError where the model cannot learn this, or from this text.
    """
    import torch

    from regrow.checkpoint.save import save_trained
    from regrow.training.loop import train

    checkpoint = open_checkpoint(source)
    tokenizer = load_tokenizer(source)
    model = load_model(source)
    objective, samples = task(model.config, tokenizer, documents, settings.row_length, seed)

    def evaluate(trained: Any) -> float:
        found: float = loss(trained, tokenizer, heldout)["loss_per_token"]
        return found

    with torch.enable_grad():
        result = train(
            model, samples, objective, settings, seed=seed, directory=training,
            identity=checkpoint.fingerprint, on_step=on_step,
            evaluate=evaluate if settings.evaluate_every else None,
            heldout_identity=heldout_identity,
        )  # fmt: skip
    save_trained(model, checkpoint, bind_checkpoint(checkpoint), out)
    return result


def task(
    config: Any, tokenizer: Any, documents: Iterable[str], row_length: int, seed: int
) -> tuple["Objective", "Samples"]:
    """What a model of this config learns from documents, and their rows.

    Raises UserError where the text or the tokenizer does not do.
    """
    if config.is_encoder_decoder:
        from regrow.objectives.corrupted import corrupt_text
        from regrow.objectives.seq2seq import Seq2Seq

        return Seq2Seq(), corrupt_text(documents, tokenizer, config, row_length, seed)
    from regrow.corpus.packing import pack
    from regrow.objectives.causal import Causal

    return Causal(), pack(documents, tokenizer, row_length)
