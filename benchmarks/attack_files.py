"""A sound file of each kind that regrow reads, and the function that reads it."""

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import attack_mutations as mutations
import numpy as np
import torch
import transformers
from attack_mutations import Mutation
from safetensors.numpy import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.run_directory import LEDGER_FILE
from regrow.corpus.text import read_documents
from regrow.corpus.token_store import open_store
from regrow.corpus.tokenizer_hash import tokenizer_sha256
from regrow.cuts.cut import AxisCut, Cut
from regrow.pipeline.ledger import Entry, Ledger, step_after
from regrow.pipeline.recipe_file import load_recipe
from regrow.pipeline.steps import STAGES, TRAINING_FILE, find_changes
from regrow.pipeline.summary import summarise
from regrow.scoring.score_file import SavedScores, TextFacts, load_scores
from regrow.tokenizers.chat_rendering import render_chat
from regrow.tokenizers.chat_templates import template_ids
from regrow.tokenizers.encoding import id_count, open_tokenizer
from regrow.tokenizers.sentencepiece_model import read_sentencepiece_models
from regrow.tokenizers.tokenizer_files import named_ids, vocabulary_candidates
from regrow.training.checkpoints import last_checkpoint
from regrow.training.resume import restore
from regrow.vocabulary.plan_file import load_plan
from regrow.vocabulary.token_counts import CountedFile, Group, TokenCounts, merge

TEXT = ["The river runs under the bridge.", "A bird sings in the garden 12 times.", "日本語 🦜"]
RECIPE = """
name: small
model: ./model
seed: 3
data:
  train: [{path: a.jsonl, weight: 2}, {name: other, path: [b.txt, c.jsonl.gz], weight: 1}]
  heldout: {domain: held.jsonl}
prompts: ['What is a river?']
stages:
  - name: depth
    cut: {layers: 3, by: random}
    recover: {tokens: 20_000, batch_tokens: 512, learning_rate: 3.0e-4}
  - name: width
    cut: {ffn: 960, drop_layers: 1-2, by: wanda}
"""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        directory: Holds the sound file and all that is read with it.
        file: Its name in the directory.
        read: Reads it, given the directory.
        mutations: How it is spoiled.
    """

    directory: Path
    file: str
    read: Callable[[Path], object]
    mutations: tuple[Mutation, ...]


def make_kinds(root: Path) -> dict[str, Kind]:
    """Write a sound file of each kind below `root`, a new directory."""
    model, files = root / "model", root / "files"
    files.mkdir(parents=True)
    write_model(model)
    tokenizer = ModelDirectory(model).tokenizer
    write_sharded(model, root / "sharded")
    write_gguf(tokenizer, files / "model.gguf")
    write_sentencepiece(files / "tokenizer.model")
    write_texts(files)
    write_store(files / "tokens", tokenizer)
    write_run(files / "run")
    counts = write_counts(files / "counts.safetensors")
    write_small(files, counts)

    def kind(
        file: str, read: Callable[[Path], object], how: tuple[Mutation, ...], at: Path = files
    ) -> Kind:
        return Kind(at, file, read, how)

    def run(directory: Path) -> None:
        read_run(directory / "run")

    def text(name: str) -> Callable[[Path], object]:
        return lambda directory: sum(map(len, read_documents(directory / name)))

    def store(directory: Path) -> object:
        return read_store(directory / "tokens", tokenizer)

    def counted(directory: Path) -> object:
        return read_counts(directory / "counts.safetensors", counts)

    json_, lines = mutations.JSON, mutations.JSON_LINES
    return {
        "recipe": kind("recipe.yaml", lambda d: load_recipe(d / "recipe.yaml"), mutations.YAML),
        "ledger": kind(f"run/{LEDGER_FILE}", run, lines),
        "training.json": kind(f"run/{STAGES}/depth/{TRAINING_FILE}", run, json_),
        "state.json": kind("checkpoints/step-00000001/state.json", read_state, json_),
        "plan": kind("plan.json", lambda d: load_plan(d / "plan.json"), json_),
        "scores": kind("scores.json", lambda d: load_scores(d / "scores.json"), json_),
        "cut": kind("cut.json", lambda d: Cut.load(d / "cut.json"), json_),
        "counts": kind("counts.safetensors", counted, mutations.TENSORS),
        "store notes": kind("tokens/tokens.json", store, json_),
        "store index": kind("tokens/tokens.idx", store, mutations.BYTES),
        "text.txt": kind("a.txt", text("a.txt"), mutations.BYTES),
        "text.jsonl": kind("a.jsonl", text("a.jsonl"), lines),
        "text.jsonl.gz": kind("a.jsonl.gz", text("a.jsonl.gz"), mutations.GZIP),
        "text.jsonl.zst": kind("a.jsonl.zst", text("a.jsonl.zst"), mutations.BYTES),
        "text.parquet": kind("a.parquet", text("a.parquet"), mutations.PARQUET),
        "chat_template.jinja": kind("chat_template.jinja", read_chat, mutations.TEMPLATE, model),
        "config.json": kind("config.json", read_config, json_, model),
        "generation_config.json": kind("generation_config.json", read_config, json_, model),
        "tokenizer.json": kind("tokenizer.json", read_tokenizer, json_, model),
        "tokenizer_config.json": kind("tokenizer_config.json", read_tokenizer, json_, model),
        "special_tokens_map.json": kind("special_tokens_map.json", read_tokenizer, json_, model),
        "tokenizer.model": kind("tokenizer.model", read_sentencepiece_models, mutations.BYTES),
        "weights": kind("model.safetensors", read_config, mutations.TENSORS, model),
        "weights index": kind("model.safetensors.index.json", read_config, json_, root / "sharded"),
        "GGUF": kind("model.gguf", read_gguf, mutations.BYTES),
    }


# Writing


def write_model(directory: Path) -> None:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(TEXT, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    special = {"bos_token": "<bos>", "eos_token": {"content": "<eos>", "special": True}}
    (directory / "special_tokens_map.json").write_text(json.dumps(special))
    template = "{% for m in messages %}<bos>{{ m['role'] }}: {{ m['content'] }}<eos>{% endfor %}"
    (directory / "chat_template.jinja").write_text(template)


def write_sharded(model: Path, directory: Path) -> None:
    """The same model in several files of weights."""
    transformers.LlamaForCausalLM.from_pretrained(model).save_pretrained(
        directory, max_shard_size="8KB"
    )


def write_gguf(tokenizer: Any, path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    sizes = (
        writer.add_block_count, writer.add_context_length, writer.add_embedding_length,
        writer.add_feed_forward_length, writer.add_head_count, writer.add_head_count_kv,
    )  # fmt: skip
    for add, size in zip(sizes, (1, 64, 16, 24, 2, 1), strict=True):
        add(size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(2)
    drawn = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 16), "output_norm": (16,)}
    shapes |= {"blk.0.attn_q": (16, 16), "blk.0.attn_k": (8, 16), "blk.0.attn_v": (8, 16)}
    shapes |= {"blk.0.attn_output": (16, 16), "blk.0.ffn_gate": (24, 16), "blk.0.ffn_up": (24, 16)}
    shapes |= {"blk.0.ffn_down": (16, 24), "blk.0.attn_norm": (16,), "blk.0.ffn_norm": (16,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", drawn.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_sentencepiece(path: Path) -> None:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    proto = ModelProto()
    for number, piece in enumerate(("<unk>", "<s>", "</s>", "▁river", "▁bridge", "a", "b")):
        proto.pieces.add(piece=piece, score=-float(number), type=(2, 3, 3, 1, 1, 1, 1)[number])
    proto.trainer_spec.model_type = 1
    path.write_bytes(proto.SerializeToString())


def write_texts(directory: Path) -> None:
    import pyarrow
    import pyarrow.parquet
    import zstandard

    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXT * 4).encode()
    (directory / "a.txt").write_text("\n".join(TEXT), encoding="utf-8")
    (directory / "a.jsonl").write_bytes(lines)
    (directory / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (directory / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXT * 4}), directory / "a.parquet")
    (directory / "recipe.yaml").write_text(RECIPE)


def write_store(directory: Path, tokenizer: Any) -> None:
    from regrow.corpus.megatron_format import write_index

    directory.mkdir()
    rows = [[*tokenizer(text)["input_ids"], 2] for text in TEXT]
    (directory / "lengths").write_bytes(np.array([len(r) for r in rows], "<i4").tobytes())
    with (directory / "tokens.idx").open("wb") as file:
        write_index(file, directory / "lengths", "uint16")
    (directory / "tokens.bin").write_bytes(np.concatenate(rows).astype("<u2").tobytes())
    notes = {
        "tokenizer_sha256": tokenizer_sha256(tokenizer), "ids": 300, "end": 2, "dtype": "uint16",
        "sha256": {"tokens.bin": "a" * 64, "tokens.idx": "b" * 64},
    }  # fmt: skip
    (directory / "tokens.json").write_text(json.dumps(notes))


def write_counts(path: Path) -> TokenCounts:
    counts = TokenCounts(
        "a" * 64, (Group("en", "Latin", 3, 80, 90),), np.arange(300, dtype=np.int64)[None],
        (CountedFile("a.jsonl", "en", 200, "c" * 64),),
    )  # fmt: skip
    counts.save(path)
    return counts


def write_small(directory: Path, counts: TokenCounts) -> None:
    from regrow.vocabulary import plan_file

    axes = {
        "layer": AxisCut(4, np.array([0, 2, 3])),
        "ffn": AxisCut(6, np.array([[0, 1], [5, 1]]), "layer"),
    }
    Cut("sha256:" + "0" * 64, axes).save(directory / "cut.json")
    values = {"ffn": np.ones((2, 6)), "layer": np.arange(4.0)}
    facts = TextFacts("d" * 64, 512)
    saved = SavedScores("sha256:" + "0" * 64, {"ffn": "wanda", "layer": "loss"}, 0, facts, values)
    saved.save(directory / "scores.json")
    plan = {
        "format": plan_file.FORMAT, "tokenizer_sha256": counts.tokenizer_sha256, "size": 2,
        "coverage": 0.9, "languages": {"en": 0.9}, "unknown": {"en": 0.0},
        "every_character": False, "tokens": [[1, "a", 5, "special"], [4, "b", 3, "special"]],
    }  # fmt: skip
    (directory / "plan.json").write_text(json.dumps(plan))
    weights = save({"a": np.zeros(2, dtype=np.float32)})
    state = {
        "run": {"seed": 1}, "environment": {"threads": 2}, "step": 1, "tokens": 64, "predicted": 60,
        "seconds": 1.5, "curve": [[64, 5.5]], "heldout": [[0, {"domain": 5.0}]],
        "heldout_identity": "e", "recent": [[5.5, 1.0]], "skipped": 0, "skipped_in_a_row": 0,
        "mixtures": {}, "files": {"model.safetensors": len(weights)},
    }  # fmt: skip
    step = directory / "checkpoints/step-00000001"
    step.mkdir(parents=True)
    (step / "model.safetensors").write_bytes(weights)
    (step / "state.json").write_text(json.dumps(state))


def write_run(directory: Path) -> None:
    """A ledger with all kinds of steps, and an unfinished training."""
    domain = {"domain": "a" * 64}
    loss = {"loss_per_token": 4.0, "bits_per_byte": 2.0, "tokens": 9, "bytes": 30}
    losses = {"heldout": {"domain": {**loss, "predicts": "every token"}}}
    facts = {
        "fingerprint": "sha256:" + "0" * 64, "files": "f", "parameters": 80, "vocabulary": 300,
        "parts": {"embedding": 10, "ffn": 70}, "bytes": 99,
    }  # fmt: skip
    settings = {
        "batch_tokens": 64, "learning_rate": 3e-4, "optimizer": "adamw", "schedule": "cosine",
    }  # fmt: skip
    cut = {"format": 1, "model": "sha256:0", "axes": {"layer": {"size": 4, "keep": "0,2-3"}}}
    text = {"name": "train", "role": "train", "documents": 2, "tokens": 50, "sha256": "t"}
    prompts = {"prompts": ["Hello"], "answer_tokens": 8}
    steps: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("original", {}, {**facts, "source": None}),
        ("recipe", {}, {"text": "name: x\n"}),
        ("texts", {}, {"texts": [text]}),
        ("original/measure", {"heldout": domain}, losses),
        ("original/answers", prompts, {"answers": ["a"]}),
        ("depth/carve", {"cut": {"layers": 3, "by": "random"}},
         {**facts, "words": "4 -> 3 layers", "cut": cut, "notes": ["x: dropped"],
          "refitted": [{"before": 0.5, "after": 0.2, "reads": False}],
          "seconds": {"score": 3.0, "refit": 1.5, "carve": 0.25}}),
        ("depth/measure-cut", {"heldout": domain, "speed": False}, losses),
        ("depth/recover", {"recover": settings},
         {**facts, "curve": [[64, 5.5]], "heldout_curve": [[100, {"domain": 5.0}]],
          "heldout": domain, "tokens": 100, "predicted": 90, "kept": "trained", "trained": losses,
          "seconds": {"recover": 7.0, "measure": 0.5}}),
        ("depth/measure", {"heldout": domain}, losses),
    ]  # fmt: skip
    where = {
        "versions": {"torch": "2"}, "seed": 0, "command": "regrow run",
        "machine": {"cpu": "c", "threads": 2, "memory": 8},
    }  # fmt: skip
    with Ledger(directory) as ledger:
        for number, (name, inputs, outputs) in enumerate(steps):
            started = f"2026-01-01T00:00:{number:02d}+00:00"
            ledger.record(Entry(name, "k", inputs, outputs, where, started, 1.0))
    begun = directory / STAGES / "depth" / TRAINING_FILE
    begun.parent.mkdir(parents=True)
    begun.write_text(json.dumps({"key": "k", "inputs": {"recover": settings, "train": ["a"]}}))


# Reading


def read_run(directory: Path) -> None:
    with Ledger(directory) as ledger:
        step = step_after(None, "depth/recover", {"recover": {"tokens": 3}})
        find_changes({step.name: step}, ledger.entries, directory)
    summarise(directory)


def read_state(directory: Path) -> object:
    checkpoint = last_checkpoint(directory / "checkpoints")
    return checkpoint and restore(checkpoint)


def read_counts(path: Path, other: TokenCounts) -> object:
    found = TokenCounts.load(path)
    return merge([("one", found), ("other", replace(other, files=()))]).to_json()


def read_store(path: Path, tokenizer: Any) -> object:
    store = open_store(path, tokenizer=tokenizer)
    return [len(store[number]) for number in range(min(len(store), 99))], store.identity


def read_config(directory: Path) -> object:
    model = ModelDirectory(directory)
    checkpoint = open_checkpoint(directory)
    return model.layout.parameters(), checkpoint.fingerprint, model.config, model.generation_config


def read_tokenizer(directory: Path) -> object:
    tokenizer = open_tokenizer(directory)
    counts = np.zeros(id_count(tokenizer), dtype=np.int64)
    return vocabulary_candidates(directory, counts), named_ids(directory), read_chat(directory)


def read_chat(directory: Path) -> str:
    template_ids(directory, open_tokenizer(directory))
    turn = {"role": "user", "content": "Hi?"}
    return render_chat(ModelDirectory(directory).tokenizer, [turn], add_generation_prompt=True)


def read_gguf(directory: Path) -> None:
    from regrow.checkpoint.gguf import convert_gguf

    out = directory / "converted"
    shutil.rmtree(out, ignore_errors=True)
    convert_gguf(directory / "model.gguf", out, lambda _: None)
