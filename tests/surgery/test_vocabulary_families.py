"""Prune the vocabulary of models, most of which have no blueprint.

Each family of tokenizers has one: byte-level BPE, SentencePiece BPE and Unigram, WordPiece.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.verify import verify_all
from regrow.common.progress import Progress
from regrow.pipeline.summary import summarise
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.prune import prune_checkpoint
from regrow.surgery.result_files import VOCABULARY_FILE
from tests.tiny import write_text
from tests.tokenizers.bpe_cases import load, trained
from tests.tokenizers.checks import TEXT, train_pieces

SMALL: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 128,
}  # fmt: skip


def documents() -> Iterator[str]:
    yield from TEXT[:2] * 60


def byte_level(directory: Path) -> None:
    inner = load(trained(list(TEXT), 400, ["<pad>", "<bos>", "<eos>"]))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(directory)


def sentencepiece_bpe(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    model = train_pieces(model_type="bpe", vocab_size=480, byte_fallback=True)
    (directory / "tokenizer.model").write_bytes(model)
    transformers.LlamaTokenizer.from_pretrained(directory).save_pretrained(directory)


def unigram(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sentencepiece.bpe.model").write_bytes(train_pieces(vocab_size=260))
    transformers.XLMRobertaTokenizer.from_pretrained(directory).save_pretrained(directory)


def wordpiece(directory: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(TEXT * 3, WordPieceTrainer(vocab_size=300, special_tokens=special))
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.BertTokenizer(tokenizer_object=inner).save_pretrained(directory)


@dataclass(frozen=True)
class Model:
    architecture: str
    tokenizer: Any
    config: dict[str, Any]
    """The config with small sizes; the number of tokens is written to the key `rows`."""
    along: tuple[str, ...]
    """Names of the stored tensors with a row for each token."""
    rows: str = "vocab_size"
    prefix: tuple[str, str] = ("", "")
    """Prefix of names in the class, and the prefix that replaces it in the file."""


MODELS = {
    "gpt2": Model(
        "GPT2LMHeadModel", byte_level,
        {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0},
        along=("wte.weight",),
        prefix=("transformer.", ""),
    ),
    "qwen3": Model(
        "Qwen3ForCausalLM", byte_level,
        {**SMALL, "tie_word_embeddings": False, "eos_token_id": [2, 1], "bos_token_id": 1},
        along=("model.embed_tokens.weight", "lm_head.weight"),
    ),
    "smollm3": Model(
        "SmolLM3ForCausalLM", byte_level,
        {**SMALL, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
         "pad_token_id": 0},
        along=("model.embed_tokens.weight", "lm_head.weight"),
    ),
    "mistral": Model(
        "MistralForCausalLM", sentencepiece_bpe,
        {**SMALL, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2},
        along=("model.embed_tokens.weight", "lm_head.weight"),
    ),
    "gemma3": Model(
        "Gemma3ForConditionalGeneration", sentencepiece_bpe,
        {
            "text_config": {
                **SMALL, "model_type": "gemma3_text", "bos_token_id": 1, "eos_token_id": 2,
            },
            "vision_config": {
                "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 12,
                "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4, "image_token_index": 3, "boi_token_index": 4,
            "eoi_token_index": 5, "eos_token_id": [2, 1],
        },
        along=("language_model.model.embed_tokens.weight",),
        rows="text_config.vocab_size",
        prefix=("model.language_model.", "language_model.model."),
    ),
    "xlm-roberta": Model(
        "XLMRobertaForMaskedLM", unigram,
        {**SMALL, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
        along=("roberta.embeddings.word_embeddings.weight", "lm_head.bias"),
    ),
    "bert": Model(
        "BertForMaskedLM", wordpiece, {**SMALL, "pad_token_id": 0},
        along=("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
    ),
    "bert, no head": Model(
        "BertModel", wordpiece, {**SMALL, "pad_token_id": 0},
        along=("embeddings.word_embeddings.weight",),
    ),
    "mamba": Model(
        "MambaForCausalLM", byte_level,
        {"hidden_size": 24, "state_size": 4, "num_hidden_layers": 2, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0},
        along=("backbone.embeddings.weight",),
    ),
}  # fmt: skip


def write(model: Model, directory: Path) -> int:
    """Write a random checkpoint, as transformers saves it; returns its vocabulary size."""
    model.tokenizer(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    config = json.loads(json.dumps(model.config))
    *parents, key = model.rows.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[key] = len(tokenizer)
    cls = getattr(transformers, model.architecture)
    torch.manual_seed(0)
    built = cls(cls.config_class.from_dict(config))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    built.save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    own, stored = model.prefix
    renamed = {
        stored + name.removeprefix(own) if name.startswith(own) else name: tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})
    return len(tokenizer)


@dataclass(frozen=True)
class Pruned:
    model: Model
    source: Path
    out: Path
    size: int
    kept: list[int]
    """The old id of each new id."""

    def both(self) -> tuple[Any, Any]:
        """The models before and after the cut, loaded with plain transformers."""
        cls = getattr(transformers, self.model.architecture)
        return tuple(cls.from_pretrained(directory).eval() for directory in (self.source, self.out))


def prune(name: str, directory: Path) -> Pruned:
    """Write a model and keep nine tenths of its tokens."""
    model, source = MODELS[name], directory / "in"
    before = write(model, source)
    out, size = source.with_name("out"), before * 9 // 10
    prune_checkpoint(ModelDirectory(source), out, CutSpec(vocab_size=size), documents=documents)
    tokens = json.loads((out / VOCABULARY_FILE).read_text(encoding="utf-8"))["tokens"]
    return Pruned(model, source, out, size, [token[0] for token in tokens])


@pytest.fixture(scope="module", params=MODELS.keys())
def pruned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    return prune(request.param, tmp_path_factory.mktemp("family"))


def test_rows_are_equal_and_all_else_is_the_same(pruned: Pruned) -> None:
    before, after = (load_file(d / "model.safetensors") for d in (pruned.source, pruned.out))
    assert list(before) == list(after)
    along = {name for name, old in before.items() if old.shape != after[name].shape}
    assert along == set(pruned.model.along)
    for name, old in before.items():
        expected = old[pruned.kept] if name in along else old
        assert torch.equal(after[name], expected), name


def test_logits_on_kept_text_are_those_of_the_original(pruned: Pruned) -> None:
    before, after = pruned.both()
    tokenizers = [
        transformers.AutoTokenizer.from_pretrained(d) for d in (pruned.source, pruned.out)
    ]
    new = {old: place for place, old in enumerate(pruned.kept)}
    for text in TEXT[:2]:
        ids, again = (tokenizer(text).input_ids for tokenizer in tokenizers)
        assert again == [new[token] for token in ids]
        with torch.no_grad():
            old, found = before(torch.tensor([ids])), after(torch.tensor([again]))
        if "logits" in old:
            assert found.logits.shape[-1] == pruned.size
            torch.testing.assert_close(
                found.logits, old.logits[..., pruned.kept], atol=1e-5, rtol=0
            )
        else:
            assert torch.equal(found.last_hidden_state, old.last_hidden_state)


def test_any_text_reads_as_before_and_no_id_is_stale(pruned: Pruned) -> None:
    before, after = (
        transformers.AutoTokenizer.from_pretrained(d) for d in (pruned.source, pruned.out)
    )
    assert sorted(after.get_vocab().values()) == list(range(pruned.size))
    assert {
        t: pruned.kept[i] for t, i in after.get_vocab().items()
    }.items() <= before.get_vocab().items()
    for text in (*TEXT, "Zürich, 北京 \U0001f600\ttabs  and spaces"):
        assert after.decode(after(text).input_ids) == before.decode(before(text).input_ids)
    config, changed = (
        json.loads((directory / "config.json").read_text())
        for directory in (pruned.source, pruned.out)
    )
    new = {old: place for place, old in enumerate(pruned.kept)}
    for old, found in (
        (config, changed),
        (config.get("text_config", {}), changed.get("text_config", {})),
    ):
        for key, value in old.items():
            if key.endswith(("_token_id", "_token_index")) and value is not None:
                ids = [new[i] for i in value] if isinstance(value, list) else new[value]
                assert found[key] == ids, key


def test_a_stranger_to_regrow_can_load_them(tmp_path: Path) -> None:
    """All are verified in one process, since starting it takes long."""
    directories = [prune(name, tmp_path / str(i)).out for i, name in enumerate(MODELS)]
    for result in verify_all(directories):
        assert result.ok, [check for check in result.checks if not check.ok]


@pytest.mark.parametrize("name", ["gpt2", "smollm3"])
def test_what_was_pruned_can_be_given_the_words_of_a_domain(name: str, tmp_path: Path) -> None:
    found = prune(name, tmp_path)
    text = write_text(tmp_path / "domain.jsonl", ["kubectl apply, then kubectl get"] * 30)
    out = tmp_path / "grown"
    grown = regrow.grow_vocabulary(found.out, out, [text], max_tokens=6)
    assert verify_all([out])[0].ok
    before, after = (load_file(d / "model.safetensors") for d in (found.out, out))
    for tensor in found.model.along:
        rows = after[tensor].shape[0]
        assert rows == found.size + len(grown.tokens) > found.size
        kept = found.size  # special tokens stand first in both
        assert torch.equal(after[tensor][:kept], before[tensor])
    tokenizers = [transformers.AutoTokenizer.from_pretrained(d) for d in (found.out, out)]
    lengths = [len(tokenizer("kubectl apply").input_ids) for tokenizer in tokenizers]
    assert lengths[1] < lengths[0]


def test_another_cut_names_the_class(tmp_path: Path) -> None:
    """Another class of the same family may have a blueprint."""
    write(MODELS["gpt2"], tmp_path / "m")
    with pytest.raises(regrow.UserError, match=r"^layers: GPT2LMHeadModel has no blueprint; only"):
        regrow.prune(tmp_path / "m", tmp_path / "out", layers=1)
    with pytest.raises(regrow.UserError, match=r"^GPT2LMHeadModel has no blueprint, so only"):
        regrow.plan(tmp_path / "m", params="50%")


def test_a_recipe_cuts_it_and_trains_it_back(tmp_path: Path) -> None:
    write(MODELS["smollm3"], tmp_path / "m")
    write_text(tmp_path / "train.jsonl", list(TEXT) * 40)
    write_text(tmp_path / "heldout.jsonl", list(TEXT))
    recover = {"tokens": 512, "row_length": 32, "batch_tokens": 64, "learning_rate": 0.01}
    recipe = {
        "name": "vocabulary", "model": "m",
        "data": {"train": "train.jsonl", "heldout": {"text": "heldout.jsonl"}},
        "stages": [{"name": "cut", "cut": {"vocab_size": 380}, "recover": recover}],
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    result = regrow.run(path, tmp_path / "out")
    assert verify_all([result.model])[0].ok
    row = summarise(tmp_path / "out").models[-1]
    cut, recovered = row.after_cut["text"].loss, row.after_recovery["text"].loss
    assert cut is not None
    assert recovered is not None
    assert recovered < cut - 0.1


def test_that_text_is_gone_is_said_where_characters_may_go(tmp_path: Path) -> None:
    write(MODELS["bert"], tmp_path / "m")
    text = write_text(tmp_path / "t.jsonl", list(TEXT) * 20)
    regrow.count_vocabulary(tmp_path / "m", tmp_path / "counts", [text], workers=1)
    messages: list[str] = []
    for gone in (False, True):
        plan = tmp_path / f"plan-{gone}.json"
        if gone:
            text.unlink()
        regrow.plan_vocabulary(
            tmp_path / "m", tmp_path / "counts", coverage=0.9, characters=False, out=plan
        )
        out = tmp_path / f"out-{gone}"
        regrow.prune(
            tmp_path / "m", out, vocab={"plan": plan}, progress=Progress(say=messages.append)
        )
    shares = [
        line for line in messages if re.search(r"^[\d.]+% of the characters of .* unknown$", line)
    ]
    assert shares
    assert messages[-2] == (
        f"{plan}: how much text becomes unknown was not measured: the text that was counted is gone"
    )
