"""What a run measures of a model: held-out losses, generation speed, answers to prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regrow.corpus.text import read_documents

_ROW = 512
_SPEED_PROMPT = "Write a short story about a river."
_SPEED_TOKENS = 32


def loss(model: Any, tokenizer: Any, text: Path, *, bits: bool = True) -> dict[str, Any]:
    """Held-out loss on one text, as `heldout_loss` has it, in rows of 512 tokens at most.

    Matrices are multiplied as in training. Where that is in bf16: half the time, and 0.0003 to
    0.0007 nats a token more than in float32 on SmolLM2-135M.
    """
    from regrow.evaluation.heldout import heldout_loss
    from regrow.objectives.losses.head import learned_positions

    documents = read_documents(text)
    row = min(_ROW, learned_positions(model) or _ROW)
    found = heldout_loss(model, tokenizer, documents, row_length=row, precision="auto", bits=bits)
    return asdict(found)


def losses(model: Any, tokenizer: Any, texts: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Held-out losses by the name of the text."""
    return {name: loss(model, tokenizer, path) for name, path in texts.items()}


def speed(model: Any, tokenizer: Any) -> float:
    """Generated tokens a second, one greedy sequence."""
    from regrow.evaluation.generation import generation_speed

    return generation_speed(model, tokenizer, _SPEED_PROMPT, new_tokens=_SPEED_TOKENS, repeats=2)


def answers(model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int) -> list[str]:
    """Greedy answers of at most so many tokens."""
    from regrow.evaluation.generation import generate

    return [generate(model, tokenizer, prompt, tokens) for prompt in prompts]
