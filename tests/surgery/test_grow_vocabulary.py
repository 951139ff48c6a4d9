"""Merged tokens: new rows are the mean of their parts, and ids and files agree."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

import regrow
from regrow.architectures.bart import BART
from regrow.common.errors import UserError
from regrow.models.loading import load_model, load_tokenizer
from regrow.tokenizers.added_merges import add_merges
from regrow.tokenizers.tokenizer_files import plan_grown_tokenizer
from tests.tiny import sentences, write_model, write_seq2seq, write_text
from tests.tokenizers.bpe_cases import load, tokenizer_json
from tests.tokenizers.sentencepiece_bpe_cases import bpe_json, bpe_model

DOMAIN = ["run kubectl apply now", "use kubectl get", "then kubectl"] * 10


def test_tokens_outside_the_vocabulary_move_behind_the_new_ones() -> None:
    contents = tokenizer_json([("a", "b")], outside=["<pad>", "<x>"])
    new, mapping = add_merges(contents, [("ab", "c"), ("c", "abc")])
    size = len(contents["model"]["vocab"])
    assert (mapping[0], mapping[size], mapping[size + 1]) == (0, size + 2, size + 3)
    assert load(new).encode("abc cabc<x>").ids[-1] == size + 3
    for merges, message in (([("a", "zz")], "'zz' is no token"), ([("a", "b")], "a token already")):
        with pytest.raises(UserError, match=message):
            add_merges(contents, merges)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `tied`, `untied` and `bart` with padding rows, and `NAME-new` with more tokens."""
    home = tmp_path_factory.mktemp("growing")
    write_model(home / "tied", vocab_size=325)
    write_model(home / "untied", vocab_size=325, tie_word_embeddings=False)
    write_seq2seq(home / "bart", BART, vocab_size=330)
    write_text(home / "domain.jsonl", DOMAIN)
    for name in ("tied", "untied", "bart"):
        regrow.grow_vocabulary(
            home / name, home / f"{name}-new", [home / "domain.jsonl"], max_tokens=12
        )
    return home


def added(home: Path, name: str) -> dict[str, list[int]]:
    """The ids of the old tokens that each new token is made of."""
    old, new = (
        json.loads((home / each / "tokenizer.json").read_text()) for each in (name, f"{name}-new")
    )
    before = Tokenizer.from_str(json.dumps(old))
    tokens = new["model"]["vocab"].keys() - old["model"]["vocab"].keys()
    ordered = sorted(tokens, key=lambda token: new["model"]["vocab"][token])
    return {token: [t.id for t in before.model.tokenize(token)] for token in ordered}


@pytest.mark.parametrize("name", ["tied", "untied", "bart"])
def test_rows_of_new_tokens_are_the_mean_of_their_parts(home: Path, name: str) -> None:
    old, new = (load_file(home / n / "model.safetensors") for n in (name, f"{name}-new"))
    parts = list(added(home, name).values())
    assert len(parts) >= 5
    count, first = len(parts), 320
    for key, tensor in old.items():
        if not {"embed_tokens", "shared", "lm_head", "final_logits_bias"} & set(key.split(".")):
            assert torch.equal(new[key], tensor)
            continue
        rows, grown = (t.transpose(0, t.shape.index(max(t.shape))) for t in (tensor, new[key]))
        assert grown.shape[0] == rows.shape[0] + count
        assert torch.equal(grown[:first], rows[:first])
        assert torch.equal(grown[first + count :], rows[first:])
        for row, of in zip(grown[first : first + count], parts, strict=True):
            torch.testing.assert_close(row, rows[of].mean(0))


def test_old_text_gives_the_same_logits_and_new_words_are_one_token(home: Path) -> None:
    before, after = load_tokenizer(home / "tied"), load_tokenizer(home / "tied-new")
    model, grown = load_model(home / "tied"), load_model(home / "tied-new")
    text = sentences(1)[0]
    assert "lm_head.weight" in load_file(home / "untied-new/model.safetensors")
    assert "lm_head.weight" not in load_file(home / "tied-new/model.safetensors")
    ids = before(text)["input_ids"]
    assert after(text)["input_ids"] == ids
    with torch.no_grad():
        old, new = (m(torch.tensor([ids])).logits for m in (model, grown))
    torch.testing.assert_close(new[..., :320], old[..., :320], atol=1e-5, rtol=0)
    assert len(after(" kubectl")["input_ids"]) == 1
    assert len(before(" kubectl")["input_ids"]) > 3
    assert after.decode(after(" kubectl apply")["input_ids"]) == " kubectl apply"


def test_ids_that_move_are_in_step(home: Path) -> None:
    before, after = load_tokenizer(home / "bart"), load_tokenizer(home / "bart-new")
    count = len(added(home, "bart"))
    name = "<extra_id_3>"
    assert after.convert_tokens_to_ids(name) == before.convert_tokens_to_ids(name) + count
    assert regrow.verify(home / "bart-new").ok
    assert not (home / "bart-new/regrow_cut.json").exists()


def test_all_forms_of_a_vocabulary_get_the_merges(tmp_path: Path) -> None:
    contents = tokenizer_json([("a", "b"), ("Ġ", "ab")], outside=["<pad>"])
    model = contents["model"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": len(model["vocab"])}))
    files, mapping = plan_grown_tokenizer(tmp_path, [("Ġab", "c"), ("Ġabc", "a")])
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    whole = load(json.loads(files["tokenizer.json"]))
    read = BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    for word in ("Ġabca", "Ġabc", "Ġabab", "ca"):
        assert [t.id for t in read.tokenize(word)] == [t.id for t in whole.model.tokenize(word)]
    assert [t.value for t in read.tokenize("Ġabcac")] == ["Ġabca", "c"]
    added = json.loads(files["added_tokens.json"])
    assert added == {"<pad>": whole.token_to_id("<pad>")} == {"<pad>": max(mapping.values())}


def test_a_model_of_sentencepiece_cannot_be_given_merges(tmp_path: Path) -> None:
    scores = {token: -float(n) for n, token in enumerate(["a", "b", "\u2581", "ab"])}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe_json(scores)))
    (tmp_path / "tokenizer.model").write_bytes(bpe_model(scores))
    with pytest.raises(UserError, match=r"tokenizer\.model: this form .* cannot be given merges"):
        plan_grown_tokenizer(tmp_path, [("ab", "a")])
    (tmp_path / "tokenizer.model").unlink()
    files, _ = plan_grown_tokenizer(tmp_path, [("ab", "a")])
    grown = load(json.loads(files["tokenizer.json"]))
    assert grown.encode("aba bé").tokens == ["\u2581", "aba", "\u2581", "b", "<0xC3>", "<0xA9>"]


def test_nothing_is_written_in_a_dry_run(home: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "en.jsonl", ["never seen: kubectl kubectl"])
    found = regrow.grow_vocabulary(
        home / "tied",
        tmp_path / "out",
        [home / "domain.jsonl"],
        max_tokens=12,
        text=[text],
        dry_run=True,
    )
    assert found.size == found.size_before + len(found.tokens)
    assert found.per_character["en"] < found.per_character_before["en"]
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_grown_is_one_line_and_nothing_is_written(
    home: Path, tmp_path: Path
) -> None:
    text = write_text(tmp_path / "text.jsonl", ["a b c"])
    unigram: dict[str, Any] = {
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]], "byte_fallback": False}
    }
    other = write_model(tmp_path / "unigram")
    (other / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "normalizer": None, **unigram})
    )
    short = write_model(tmp_path / "short", vocab_size=300)
    empty = write_text(tmp_path / "empty.jsonl", ["", " \n"])
    listed = sorted(path.name for path in tmp_path.iterdir())
    for directory, corpus, message in (
        (home / "tied", [text], "no two tokens stand beside each other 20 times"),
        (home / "tied", [], "name at least one file"),
        (home / "tied", [text], "tokens 0: there is nothing to add; give at least 1"),
        (home / "tied", [tmp_path / "none.jsonl"], "no such file"),
        (home / "tied", [empty], "corpus: no text in"),
        (other, [text], "the tokenizer is Unigram; what can be given merges is"),
        (short, [text], "tokenizer and embedding do not match"),
        (home / "domain.jsonl", [text], "is a file"),
    ):
        with pytest.raises(UserError) as error:
            regrow.grow_vocabulary(
                directory, tmp_path / "out", corpus, max_tokens=0 if "least 1" in message else 5
            )
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == listed
