"""A GGUF file becomes a plain directory with the same weights, config and tokenizer."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from regrow.checkpoint import gguf as module
from regrow.checkpoint.gguf import convert_gguf, file_sha256
from regrow.checkpoint.history import history_of
from regrow.checkpoint.model_card import description
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import open_checkpoint
from regrow.common.errors import UserError
from regrow.common.progress import telling_parts
from regrow.common.publishing import partial_place

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ Ġ", "Ġ t", "h e", "1 2", "Ġ 1"]
ALPHABET = [*(chr(c) for c in range(33, 127)), "Ġ", "Ċ"]
TOKENS = [*SPECIAL, "<tool>", *ALPHABET, *(merge.replace(" ", "") for merge in MERGES), "abc"]
HEADS, KV_HEADS = 4, 2


def tiny_model(*, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rotary dimensions in GGUF's order: pairs are neighbours; in Hugging Face they are halves."""
    rows = weight.shape[0] // heads // 2
    split = weight.reshape(heads, 2, rows, weight.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(weight.shape)


def write(
    path: Path,
    model: LlamaForCausalLM,
    *,
    pre: str = "smollm",
    add_bos: bool | None = False,
    extra: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
) -> Path:
    config = model.config
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, 4, *[1] * (len(TOKENS) - 4)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template(TEMPLATE)
    extra(writer)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = {name: value.float().numpy() for name, value in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    if not config.tie_word_embeddings:
        writer.add_tensor("output.weight", state["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            value = state[f"model.layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                value = interleaved(value, HEADS if ours == "attn_q" else KV_HEADS)
            writer.add_tensor(f"blk.{layer}.{ours}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert(path: Path) -> tuple[Path, list[str]]:
    notes: list[str] = []
    convert_gguf(path, path.parent / "out", notes.append)
    return path.parent / "out", notes


def test_a_converted_model_is_the_one_that_was_written(tmp_path: Path) -> None:
    model = tiny_model()
    source = write(tmp_path / "tiny.gguf", model)
    directory, notes = convert(source)
    assert notes == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.gguf"]

    checkpoint = open_checkpoint(directory)
    assert "lm_head.weight" not in checkpoint.tensors
    assert {info.dtype for info in checkpoint.tensors.values()} == {"BF16"}
    config = checkpoint.config
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert config[key] == getattr(model.config, key)
    assert config["num_key_value_heads"] == KV_HEADS
    assert config["vocab_size"] == len(TOKENS)
    assert config["max_position_embeddings"] == 256
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100000.0}
    assert config["tie_word_embeddings"] is True
    assert "_model_name_or_path" not in config
    generation = json.loads((directory / "generation_config.json").read_text())
    assert "_from_model_config" not in generation
    for written in (config, generation):
        ids = {key: written[f"{key}_token_id"] for key in ("bos", "eos", "pad")}
        assert ids == {"bos": 1, "eos": 2, "pad": 2}

    converted = LlamaForCausalLM.from_pretrained(directory)
    for name, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name

    record = json.loads((directory / "regrow_source.json").read_text())
    assert record["file"] == "tiny.gguf"
    assert record["sha256"] == file_sha256(source)
    assert record["tensor_types"] == ["F32"]
    assert set(record["versions"]) == {"regrow", "transformers", "gguf"}
    assert record["name"] == "tiny"
    assert record.keys().isdisjoint({"license", "repository", "language"})


def test_a_conversion_records_what_the_file_says_of_licence_and_origin(tmp_path: Path) -> None:
    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_license("apache-2.0")
        writer.add_languages(["en", "zh"])
        writer.add_repo_url("https://huggingface.co/owner/tiny")

    directory, _ = convert(write(tmp_path / "tiny.gguf", tiny_model(), extra=describe))
    history = history_of(directory, ModelDirectory(directory).layout)
    assert history.base.card == {"license": "apache-2.0", "language": ["en", "zh"]}
    assert (history.base.name, history.base.hub_id) == ("tiny", "owner/tiny")
    assert history.base.file == "tiny.gguf"
    card = description(history, open_checkpoint(directory).config)["README.md"].decode()
    assert "(https://huggingface.co/owner/tiny) (converted from tiny.gguf)" in card


def test_a_conversion_tells_how_many_tensors_are_read(tmp_path: Path) -> None:
    model, heard = tiny_model(), list[tuple[str, int, int]]()
    source = write(tmp_path / "tiny.gguf", model)
    with telling_parts(lambda *part: heard.append(part)):
        convert(source)
    tensors = [(done, total) for doing, done, total in heard if doing == "converting, tensor"]
    total = tensors[0][1]
    assert total > 9
    assert tensors == [(done, total) for done in range(total + 1)]


def test_files_beside_it_change_nothing_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache knows a conversion by the GGUF file alone."""
    source = write(tmp_path / "alone/tiny.gguf", tiny_model())
    other = tmp_path / "beside"
    shutil.copytree(source.parent, other)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n"
    (other / "own.py").write_text(code)
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    files = {
        "tokenizer_config.json": {
            "auto_map": {"AutoTokenizer": ["own.Own", None]},
            "eos_token": "x",
        },
        "config.json": {"auto_map": own, "model_type": "own", "hidden_size": 4},
        "generation_config.json": {"temperature": 0.125, "do_sample": True},
        "special_tokens_map.json": {"bos_token": "a"},
        "added_tokens.json": {"<new>": 99},
    }
    for name, values in files.items():
        (other / name).write_text(json.dumps(values))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    converted = [convert(path)[0] for path in (source, other / "tiny.gguf")]
    assert not (tmp_path / "ran").exists()
    first, second = (
        {path.name: path.read_bytes() for path in directory.iterdir()} for directory in converted
    )
    assert first == second


def test_a_converted_tokenizer_splits_as_the_original_did(tmp_path: Path) -> None:
    directory, _ = convert(write(tmp_path / "tiny.gguf", tiny_model()))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    # Digits alone, before the blanks are given to the words: neither "12" nor "Ġ1" is used.
    assert tokenizer.tokenize("a  12 the") == ["a", "ĠĠ", "1", "2", "Ġt", "he"]
    assert tokenizer.tokenize("x<tool>y<|im_end|>") == ["x", "<tool>", "y", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode("the 12  ab\n")) == "the 12  ab\n"
    assert tokenizer.encode("a") == [TOKENS.index("a")]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 256
    assert len(tokenizer) == len(TOKENS)
    added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
    assert added == {**dict.fromkeys(SPECIAL, True), "<tool>": False}


def test_llama_3_keeps_whole_tokens_its_bos_and_its_rotary_scaling(tmp_path: Path) -> None:
    model = tiny_model(tied=False)
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 100000.0,
    }
    model.config.rope_parameters = scaling
    expected = LlamaForCausalLM(model.config)
    default = 100000.0 ** -(np.arange(0, 8, 2, dtype=np.float32) / 8)
    factors = (default / expected.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert factors.max() > 7
    path = write(
        tmp_path / "tiny.gguf",
        model,
        pre="llama-bpe",
        add_bos=None,
        extra=lambda writer: writer.add_tensor("rope_freqs.weight", factors),
    )
    directory, notes = convert(path)
    assert notes == []
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.encode("abc") == [1, TOKENS.index("abc")]  # no merge leads to it
    checkpoint = open_checkpoint(directory)
    assert "lm_head.weight" in checkpoint.tensors
    assert checkpoint.config["rope_parameters"] == scaling
    converted = LlamaForCausalLM.from_pretrained(directory)
    assert torch.equal(converted.lm_head.weight, model.lm_head.weight)
    assert torch.equal(converted.model.rotary_emb.inv_freq, expected.model.rotary_emb.inv_freq)


def test_an_unknown_pre_tokenizer_is_said(tmp_path: Path) -> None:
    _, notes = convert(write(tmp_path / "tiny.gguf", tiny_model(), pre="klingon"))
    assert len(notes) == 1
    assert "tokenizer.ggml.pre is 'klingon'" in notes[0]


def scaled_twice(writer: gguf.GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", np.array([1, 2, 3, 9], np.float32))
    writer.add_rope_scaling_factor(4.0)


@pytest.mark.parametrize("key", ["rope.scale_linear", "rope.scaling.factor"])
def test_scaling_without_a_type_is_linear(tmp_path: Path, key: str) -> None:
    """llama.cpp reads both keys so."""
    path = write(
        tmp_path / "tiny.gguf", tiny_model(), extra=lambda w: w.add_float32(f"llama.{key}", 4.0)
    )
    directory, _ = convert(path)
    expected = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0}
    assert open_checkpoint(directory).config["rope_parameters"] == expected


def test_scaling_of_the_type_none_scales_nothing(tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(4.0)

    directory, _ = convert(write(tmp_path / "tiny.gguf", tiny_model(), extra=extra))
    parameters = open_checkpoint(directory).config["rope_parameters"]
    assert parameters == {"rope_type": "default", "rope_theta": 100000.0}


def test_an_unknown_config_ends_the_work_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise UserError("no such model")

    path = write(tmp_path / "tiny.gguf", tiny_model())
    monkeypatch.setattr(module, "repaired_config", fail)
    monkeypatch.setattr(module, "_load", lambda *_: pytest.fail("the weights are read"))
    with pytest.raises(UserError, match="no such model"):
        convert(path)


Extra = Callable[[gguf.GGUFWriter], object]
REFUSED: list[tuple[Extra, str]] = [
    (lambda w: w.add_uint16("split.count", 2), "one of 2 parts"),
    (lambda w: w.add_type("adapter"), "general.type is 'adapter'"),
    (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "rope.scaling.type is 'yarn'"),
    (
        lambda w: w.add_tensor("rope_freqs.weight", np.array([1, 2, 3, 9], np.float32)),
        "not the scaling of Llama 3.1",
    ),
    (lambda w: w.add_rope_scaling_factor(-2.0), "scaling.factor is -2.0; a number above 0"),
    (scaled_twice, "by 4 and by rope_freqs.weight too"),
]


@pytest.mark.parametrize(("extra", "message"), REFUSED)
def test_what_cannot_be_converted_is_refused(tmp_path: Path, extra: Extra, message: str) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_model(), extra=extra)
    refuse(path, message)


@pytest.mark.parametrize("name", ["blk.1.attn_q.bias", "rope_factors_long.weight"])
def test_a_tensor_that_transformers_passes_over_is_a_refusal(tmp_path: Path, name: str) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor(name, np.ones(32, dtype=np.float32))

    path = write(tmp_path / "tiny.gguf", tiny_model(), extra=add)
    refuse(path, f"1 tensors do not fit the architecture, such as {name}; start")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.02, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, part: float) -> None:
    path = write(tmp_path / "tiny.gguf", tiny_model())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    refuse(path, "not a GGUF|truncated")


@pytest.mark.parametrize(
    ("key", "add", "value", "message"),
    [
        ("split.count", "string", "2", "is '2'; a whole number is wanted"),
        ("general.type", "uint32", 1, "is 1; text is wanted"),
        ("tokenizer.chat_template", "array", ["a"], "text is wanted"),
        ("llama.rope.scaling.factor", "string", "x", "is 'x'; a number is wanted"),
        ("llama.rope.scaling.type", "array", ["x"], "text is wanted"),
        ("llama.rope.scale_linear", "string", "x", "is 'x'; a number is wanted"),
        ("llama.rope.dimension_count", "string", "8", "is '8'; a whole number is wanted"),
        ("llama.block_count", "uint32", 1 << 31, "is 2147483648; a number of layers is wanted"),
        ("llama.embedding_length", "uint64", 1 << 40, "but the embedding has 32"),
    ],
)
def test_metadata_of_another_type_or_size_is_refused(
    tmp_path: Path, key: str, add: str, value: Any, message: str
) -> None:
    def replace(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop(key, None)
        getattr(writer, f"add_{add}")(key, value)

    path = write(tmp_path / "tiny.gguf", tiny_model(), extra=replace)
    refuse(path, f"{re.escape(key)} .*{message}|{re.escape(key)} {message}")


@pytest.mark.parametrize("length", [1 << 20, 1 << 31, 1 << 62, (1 << 64) - 1])
def test_a_length_beyond_the_file_is_refused_at_once(tmp_path: Path, length: int) -> None:
    """Each length in the header: of names, texts and arrays; the numbers of keys and tensors."""
    path = write(tmp_path / "tiny.gguf", tiny_model())
    raw = path.read_bytes()
    vocabulary = raw.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    places = [8, 16, 24, raw.index(b"llama", 60) - 8, vocabulary, vocabulary + 8]
    places += [raw.index(b"token_embd.weight") - 8, raw.index(b"<|im_start|>") - 8]
    for place in places:
        path.write_bytes(raw[:place] + length.to_bytes(8, "little") + raw[place + 8 :])
        refuse(path, "truncated or corrupt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_text("no model")
    refuse(path, "not a GGUF file")
    writer = gguf.GGUFWriter(path, "no-such-architecture")
    writer.add_tensor("a", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refuse(path, "transformers cannot load it")


def test_what_a_killed_conversion_left_goes_with_the_next(tmp_path: Path) -> None:
    source = write(tmp_path / "tiny.gguf", tiny_model())
    code = (
        "import os, pathlib, signal, sys; from regrow.checkpoint import gguf; "
        "import tempfile; tempfile.tempdir = '/none'; "
        "gguf._load = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "gguf.convert_gguf(*map(pathlib.Path, sys.argv[1:]), print)"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = tmp_path.glob(".*")
    assert left == partial_place(tmp_path / "out")
    convert(source)
    assert set(tmp_path.iterdir()) == {source, tmp_path / "out"}


def test_a_conversion_that_runs_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file is converted a second time while the first conversion runs."""
    source = write(tmp_path / "tiny.gguf", tiny_model())
    save = module._load
    saved: list[Any] = []
    second = threading.Thread(target=convert, args=(source,))

    def meanwhile(*args: Any) -> Any:
        if not saved:
            second.start()
        saved.append(args)
        return save(*args)

    monkeypatch.setattr(module, "_load", meanwhile)
    convert(source)
    second.join()
    assert len(saved) == 1
    assert set(tmp_path.iterdir()) == {source, tmp_path / "out"}
    open_checkpoint(tmp_path / "out")


def test_whatever_the_loader_raises_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("no\nsuch part")  # as transformers does at odd metadata

    path = write(tmp_path / "tiny.gguf", tiny_model())
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    refuse(path, r"transformers cannot load it \(AttributeError: no such part\)")


def refuse(path: Path, message: str) -> None:
    """Assert a one-line error that names the file, and that nothing is left behind."""
    with pytest.raises(UserError, match=message) as caught:
        convert(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert list(path.parent.iterdir()) == [path]
