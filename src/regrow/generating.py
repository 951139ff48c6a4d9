"""Load a model directory with transformers and let it write."""

from pathlib import Path

from regrow.checkpoint.reader import open_checkpoint
from regrow.errors import UserError
from regrow.wording import one_line


def generate_text(directory: Path, prompt: str, max_new_tokens: int) -> str:
    """A greedy continuation, or an answer where the tokenizer has a chat template.

    Raises UserError where transformers cannot load the model or the tokenizer.
    """
    if not prompt:
        raise UserError("the prompt holds no token; give some text")
    open_checkpoint(directory)
    import transformers

    from regrow.evaluation.generation import generate

    try:
        config = transformers.AutoConfig.from_pretrained(directory)
        if config.is_encoder_decoder:
            raise UserError(f"{directory}: an encoder-decoder; generate takes decoders for now")
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = one_line(str(error))[:200]
        raise UserError(f"{directory}: transformers cannot load it: {reason}") from None
    return generate(model, tokenizer, prompt, max_new_tokens)
