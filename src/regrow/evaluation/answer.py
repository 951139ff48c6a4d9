"""Load a model directory with transformers and let it write."""

from pathlib import Path

from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.models.loading import load_model, load_tokenizer


def generate_text(directory: Path, prompt: str, max_new_tokens: int) -> str:
    """A greedy continuation, or an answer where the tokenizer has a chat template.

    Raises UserError where transformers cannot load the model or the tokenizer.
    """
    if not prompt:
        raise UserError("the prompt holds no token; give some text")
    open_checkpoint(directory)
    from regrow.evaluation.generation import generate

    tokenizer = load_tokenizer(directory)
    model = load_model(directory, dtype="auto")
    return generate(model, tokenizer, prompt, max_new_tokens)
