"""Tiny checkpoints, tokenizers and texts for tests."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regrow.architectures import Blueprint, Layout, bind
from regrow.architectures.assembled import file_shapes, taken_apart
from regrow.architectures.llama import LLAMA
from regrow.models.networks import config_class, model_class
from regrow.scoring.registry import SCORES

SCORE_NAMES = " or ".join([", ".join([*SCORES][:-1]), [*SCORES][-1]])
"""As an error lists them."""


def tiny_shapes(blueprint: Blueprint, tiny: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name in a file, of the library's own class; a tied head is left out."""
    left_out = set(blueprint.head.aliases)
    if tiny.get("tie_word_embeddings") is not False:
        left_out.add(blueprint.head.weight)
    found = _class_shapes(blueprint.architectures[0], json.dumps(tiny))
    return {
        name: shape for name, shape in file_shapes(blueprint, found).items() if name not in left_out
    }


def weights_by_name(model: Any, blueprint: Blueprint) -> dict[str, torch.Tensor]:
    """The weights of a model by their names in a file; changing one changes the model."""
    return taken_apart(blueprint, model.state_dict())


@cache
def _class_shapes(architecture: str, tiny: str) -> Mapping[str, tuple[int, ...]]:
    values = json.loads(tiny)
    config = config_class(values.pop("model_type")).from_dict(values)
    with torch.device("meta"):
        model = model_class(architecture)(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def tiny_layout(blueprint: Blueprint, number: int = 0) -> Layout:
    tiny = blueprint.tiny[number]
    return bind(blueprint, tiny, tiny_shapes(blueprint, tiny))


def write_tiny(
    blueprint: Blueprint,
    out: Path,
    number: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Path:
    """A checkpoint with every weight drawn at random."""
    tiny = {**blueprint.tiny[number], **changes}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (torch.randn(shape, generator=generator) * 0.2).to(dtype)
        for name, shape in tiny_shapes(blueprint, tiny).items()
    }
    out.mkdir(parents=True)
    save_file(state, str(out / "model.safetensors"), metadata={"format": "pt"})
    name = str(dtype).removeprefix("torch.")
    (out / "config.json").write_text(json.dumps({**tiny, "dtype": name}), encoding="utf-8")
    return out


_WORDS = [
    "river", "stone", "light", "water", "bird", "house", "wind", "tree", "road", "night", "morning",
    "hand", "door", "garden", "letter", "clock", "winter", "salt", "bridge", "lamp", "field",
    "boat", "song", "window", "paper", "bread", "hill", "rain",
]  # fmt: skip


def sentences(count: int, seed: int = 0) -> list[str]:
    """Documents of made-up sentences, one each; a pure function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    documents = []
    for _ in range(count):
        drawn = torch.randint(len(_WORDS), (12,), generator=generator).tolist()
        documents.append("The " + " ".join(_WORDS[i] for i in drawn) + ".")
    return documents


def write_text(path: Path, documents: Sequence[str]) -> Path:
    lines = [json.dumps({"text": document}) + "\n" for document in documents]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def add_tokenizer(directory: Path, size: int = 320, sentinels: int = 0) -> Path:
    """Train a byte-level BPE on made-up sentences and save it as a user's tokenizer is saved.

    Ids 0 to 2 are <pad>, <bos> and <eos>; `size` counts them and the 256 bytes. `sentinels`:
    tokens <extra_id_N> beyond that, whose ids fall as N rises.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in _tokenizer_files(size, sentinels).items():
        (directory / name).write_bytes(data)
    return directory


@cache
def _tokenizer_files(size: int, sentinels: int) -> Mapping[str, bytes]:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(sentences(100, seed=9), trainer)
    assert inner.get_vocab_size() == size
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    names = [f"<extra_id_{number}>" for number in reversed(range(sentinels))]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    with TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def add_chat_template(directory: Path) -> Path:
    """Give a model directory a chat template in which `<eos>` ends each turn."""
    template = (
        "{% for m in messages %}<bos>{{ m['role'] }}:{{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<bos>assistant:{% endif %}"
    )
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


def write_seq2seq(out: Path, blueprint: Blueprint, number: int = 0, **changes: Any) -> Path:
    """A complete tiny encoder-decoder with a tokenizer of 320 tokens and 8 sentinels."""
    tokens = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    write_tiny(blueprint, out, number, **{"vocab_size": 330, **tokens, **changes})
    (out / "generation_config.json").write_text(json.dumps(tokens), encoding="utf-8")
    return add_tokenizer(out, sentinels=8)


def write_model(out: Path, **changes: Any) -> Path:
    """A complete tiny Llama: weights, config, generation config, and a tokenizer of 320 tokens."""
    config = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 256, "tie_word_embeddings": True,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes,
    }  # fmt: skip
    write_tiny(LLAMA, out, number=1, **config)
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (out / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return add_tokenizer(out)
