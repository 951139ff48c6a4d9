"""Load a model directory with transformers and let it write."""

from pathlib import Path

from regrow.checkpoint.reader import open_checkpoint
from regrow.errors import UserError


def generate_text(directory: Path, prompt: str, max_new_tokens: int) -> str:
    """A greedy continuation, or an answer where the tokenizer has a chat template."""
    open_checkpoint(directory)
    import transformers

    from regrow.evaluation.generation import generate

    config = transformers.AutoConfig.from_pretrained(directory)
    if config.is_encoder_decoder:
        raise UserError(f"{directory}: an encoder-decoder; generate takes decoders for now")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: no tokenizer that can be loaded: {error}") from None
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    return generate(model, tokenizer, prompt, max_new_tokens)
