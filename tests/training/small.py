"""Small random causal language models of all families, and a tokenizer of single bytes."""

from functools import cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from regrow.training.loop import train
from regrow.training.settings import RecoverySettings
from regrow.training.task import HeldoutMeasurement, Hooks, TrainingResult, TrainingTask

VOCAB = 258
BOS, EOS = 256, 257
FAMILIES = ("llama", "gpt_neox", "gemma2", "olmo2", "phi3")
SLIDING_WINDOW = 6

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_GROUPED = {"num_key_value_heads": 2}
_OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {**_GROUPED, "tie_word_embeddings": True},
    "gpt_neox": {},
    "gemma2": {
        **_GROUPED,
        "head_dim": 8,
        "sliding_window": SLIDING_WINDOW,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 8,
    },
    "olmo2": _GROUPED,
    "phi3": {**_GROUPED, "pad_token_id": EOS},
}


def small_model(family: str, *, seed: int = 0, attention: str | None = None, **changes: Any) -> Any:
    """Float32, in evaluation mode, every parameter drawn at random."""
    config = transformers.CONFIG_MAPPING[family](
        **{**_SIZES, **_OF_FAMILY.get(family, {}), **changes}
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.float().eval()


def without_memory(model: Any) -> Any:
    """What a process has that will be given its part."""
    with torch.device("meta"):
        return type(model)._from_config(model.config, dtype=torch.float32).eval()


@cache
def byte_tokenizer(*, bos: bool = False, eos: bool = True) -> Any:
    """A token a byte; no pad token; with ``bos`` it puts one before a text, as Llama's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: number for number, symbol in enumerate(alphabet)}
    vocab |= {"<bos>": BOS, "<eos>": EOS}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    special = {"bos_token": "<bos>"} | ({"eos_token": "<eos>"} if eos else {})
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def train_on(
    model: Any, samples: Any, objective: Any, settings: RecoverySettings, **options: Any
) -> TrainingResult:
    """`train`, with all that it takes by name."""

    def given(*names: str) -> dict[str, Any]:
        return {name: options.pop(name) for name in names if name in options}

    task = TrainingTask(samples, objective, **{"seed": 0, **given("seed", "mixtures")})
    heldout = HeldoutMeasurement(options.pop("heldout_identity", ""), options.pop("evaluate", None))
    hooks = Hooks(**given("track", "on_step", "export"))
    return train(model, task, settings, heldout=heldout, hooks=hooks, **options)
