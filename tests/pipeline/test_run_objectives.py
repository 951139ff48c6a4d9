"""Runs of recipes whose objectives need tokens that the model does not have."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml

import regrow
from regrow.architectures.bart import BART
from regrow.architectures.t5gemma import T5GEMMA
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.models.loading import load_tokenizer
from regrow.objectives.special_tokens import INFILLING_TOKENS, SENTINELS
from regrow.pipeline.ledger import read_entries
from tests.tiny import add_tokenizer, sentences, write_model, write_text, write_tiny


def run(
    home: Path,
    recover: dict[str, Any],
    cut: dict[str, Any],
    train: list[str] | None = None,
    **options: Any,
) -> Path:
    """A cut and its recovery of the model in `home`; what the run wrote."""
    write_text(home / "train.jsonl", train or sentences(40))
    write_text(home / "heldout.jsonl", sentences(4, seed=1))
    settings = {"tokens": 256, "batch_tokens": 96, "learning_rate": 0.01, **recover}
    recipe = {
        "name": "tiny", "model": "m", "threads": 1,
        "data": {"train": "train.jsonl", "heldout": {"domain": "heldout.jsonl"}},
        "stages": [{"name": "depth", "cut": cut, "recover": settings}],
    }  # fmt: skip
    path = home / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    regrow.run(path, home / "run", **options)
    return home / "run"


def test_an_encoder_decoder_without_sentinels_is_given_them(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "vocab_size": 320, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "forced_eos_token_id": 2, "decoder_start_token_id": 2,
    }  # fmt: skip
    write_tiny(BART, tmp_path / "m", **config)
    add_tokenizer(tmp_path / "m")
    said: list[str] = []
    cut = {"layers": {"encoder": 2, "decoder": 2}, "calibration_tokens": 512}
    # What cannot be is found before tokens are added.
    with pytest.raises(UserError, match=r"depth: recover.row_length 65: .* knows 64 positions"):
        run(tmp_path, {"row_length": 65}, cut)
    with pytest.raises(UserError, match=r"compare\.at-once: the recipe makes fewer than two cuts"):
        run(tmp_path, {"row_length": 48}, cut, compare=["at-once"])
    with pytest.raises(UserError, match="o-ul2 with rows of 20 tokens and 100 sentinels"):
        run(tmp_path, {"row_length": 20, "objective": "o-ul2"}, cut)
    with pytest.raises(UserError, match=r"embedding_rate: .* <extra_id_0> is added to the model"):
        run(tmp_path, {"row_length": 48, "embedding_rate": 0}, cut)
    with pytest.raises(UserError, match=r"data\.train: "):
        run(tmp_path, {"row_length": 60, "objective": "o-ul2"}, cut, train=["Too short."])
    assert not (tmp_path / "run").exists()
    out = run(tmp_path, {"row_length": 48}, cut, progress=Progress(say=said.append))
    assert "adding 100 tokens (<extra_id_0> ... <extra_id_99>)" in said[0]
    model = out / "stages/depth/model"
    assert load_tokenizer(model).convert_tokens_to_ids(list(SENTINELS)) == list(range(320, 420))
    assert json.loads((model / "config.json").read_text())["vocab_size"] == 420
    assert regrow.verify(model).ok
    done = read_entries(out / "ledger.jsonl")
    assert done["original"].outputs["vocabulary"] == 420
    assert done["depth/recover"].outputs["predicted"] > 0
    said.clear()
    regrow.run(tmp_path / "recipe.yaml", out, progress=Progress(say=said.append))
    assert not any("adding" in line for line in said)


def test_stacks_of_their_own_embeddings_are_trained_too(tmp_path: Path) -> None:
    """T5Gemma has no sentinels, an embedding in each stack, and a config for each."""
    tiny = T5GEMMA.tiny[0]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": 320, **ids}
    config: dict[str, Any] = {name: {**tiny[name], **sizes} for name in ("encoder", "decoder")}
    write_tiny(T5GEMMA, tmp_path / "m", **(config | sizes))
    add_tokenizer(tmp_path / "m")
    cut = {"layers": {"encoder": 1, "decoder": 2}, "calibration_tokens": 512}
    out = run(tmp_path, {"row_length": 48}, cut)
    checked = regrow.verify(out / "stages/depth/model")
    assert checked.ok, checked
    assert read_entries(out / "ledger.jsonl")["depth/recover"].outputs["predicted"] > 0


@pytest.mark.parametrize(
    ("recover", "added"),
    [
        ({"objective": "ul2", "prefix": "bidirectional", "row_length": 48}, 103),
        ({"objective": "fill-in-the-middle", "row_length": 48}, 3),
        ({"objective": "prefix-lm", "row_length": 48}, 0),
    ],
    ids=lambda value: value["objective"] if isinstance(value, dict) else "",
)
def test_a_decoder_learns_by_other_objectives(
    tmp_path: Path, recover: dict[str, Any], added: int
) -> None:
    write_model(tmp_path / "m")
    out = run(tmp_path, recover, {"layers": 3, "calibration_tokens": 512})
    model = out / "stages/depth/model"
    known = load_tokenizer(model).get_vocab()
    assert len(known) == 320 + added
    wanted = {103: [*SENTINELS, "<R>", "<S>", "<X>"], 3: [*INFILLING_TOKENS[0]], 0: []}[added]
    assert [known[name] for name in wanted] == list(range(320, 320 + added))
    assert json.loads((model / "config.json").read_text())["vocab_size"] == 320 + added


@pytest.mark.parametrize(
    ("recover", "message"),
    [
        ({"row_length": 65}, "row_length 65: GPT2LMHeadModel knows 64 positions; give at most so"),
        ({"row_length": 60, "objective": "ul2"}, "row_length 60: .*knows 64 positions, and a row"),
        ({"lora": {"rank": 2}}, "lora: GPT2LMHeadModel: no module of its layers is torch.nn.Lin"),
        ({"prefix": "bidirectional"}, "prefix: causal has no prefix in its rows; leave it out"),
        ({"shared_rows": True}, "shared_rows: is for encoder-decoders; leave it out"),
    ],
    ids=["row_length", "row_length of ul2", "lora", "prefix", "shared_rows"],
)
def test_what_a_network_cannot_learn_is_said_before_a_run(
    tmp_path: Path, recover: dict[str, Any], message: str
) -> None:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64}
    config = transformers.GPT2Config(vocab_size=340, bos_token_id=1, eos_token_id=2, **sizes)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    add_tokenizer(tmp_path / "m", sentinels=20)
    recover = {"row_length": 48, **recover}
    with pytest.raises(UserError, match=rf"stages: depth: recover\.{message}"):
        run(tmp_path, recover, {"vocab_size": 300})
    assert not (tmp_path / "run/stages").exists()


def test_what_an_encoder_decoder_cannot_is_said_before_a_run(tmp_path: Path) -> None:
    write_tiny(BART, tmp_path / "m", vocab_size=340, max_position_embeddings=64)
    add_tokenizer(tmp_path / "m", sentinels=20)
    with pytest.raises(UserError, match=r"recover\.shared_rows: the positions of Bart.* learned"):
        run(tmp_path, {"row_length": 48, "shared_rows": True}, {"layers": {"encoder": 1}})
    with pytest.raises(UserError, match=r"recover\.prefix: an encoder-decoder has no prefix"):
        run(tmp_path, {"row_length": 48, "prefix": "bidirectional"}, {"layers": {"encoder": 1}})
