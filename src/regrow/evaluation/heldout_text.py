"""A held-out file, how it is read, and the loss on it.

Importing this module does not import PyTorch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.corpus.reading import PLAIN_TEXT, Reading

if TYPE_CHECKING:
    from regrow.evaluation.heldout import HeldoutLoss


@dataclass(frozen=True)
class HeldoutText:
    """A file or a directory of held-out text.

    Attributes:
        path: Of the file or the directory.
        reading: How it is read: as texts, of which every token counts, or as conversations, of
            which the answers count.
    """

    path: Path
    reading: Reading = PLAIN_TEXT


def loss_on(model: Any, tokenizer: Any, text: HeldoutText, *, bits: bool = True) -> "HeldoutLoss":
    """The loss of a model on a held-out text, in training's precision.

    `bits`: whether to measure bits per byte where that takes time.

    Raises UserError if the text cannot be read or measured.
    """
    if not text.reading.conversations:
        from regrow.evaluation.heldout import text_loss

        return text_loss(model, tokenizer, text.path, bits=bits, reading=text.reading)
    from regrow.corpus.text import read_documents
    from regrow.evaluation.answer_loss import conversation_loss

    documents = read_documents(text.path, text.reading)
    return conversation_loss(model, tokenizer, documents, bits=bits)
