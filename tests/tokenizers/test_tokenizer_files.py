import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regrow.common.errors import UserError
from regrow.tokenizers.families import VocabularyChoice
from regrow.tokenizers.tokenizer_files import (
    named_ids,
    plan_tokenizer,
    read_tokenizer,
    stale_files,
    vocabulary_candidates,
)
from tests.tokenizers.bpe_cases import Json, encode, load, tokenizer_json, zeros
from tests.tokenizers.checks import select

MERGES = [("a", "b"), ("ab", "c"), ("Ġ", "a"), ("d", "e")]


def write(path: Path, contents: Json) -> None:
    path.write_text(json.dumps(contents, ensure_ascii=False), encoding="utf-8")


def saved(directory: Path) -> Path:
    """A directory with every file that a tokenizer can have."""
    order = [*range(10, 262), *range(10)]
    contents = tokenizer_json(MERGES, before=["<s>", "</s>"], outside=["<pad>"], order=order)
    vocab = contents["model"]["vocab"]
    write(directory / "tokenizer.json", contents)
    write(directory / "vocab.json", vocab)
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in MERGES), ""]
    (directory / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    added = {token["content"]: token["id"] for token in contents["added_tokens"]}
    write(directory / "added_tokens.json", added)
    write(
        directory / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(i): {"content": t} for t, i in added.items()},
            "bos_token": "<s>",
            "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
            "pad_token": None,
            "extra_special_tokens": {"image_token": "<pad>"},
            "eos_token_id": added["</s>"],
            "chat_template": "{{ messages }} é",
            "add_bos_token": True,
            "model_max_length": 512,
        },
    )
    write(directory / "special_tokens_map.json", {"bos_token": "<s>", "mask_token": "de"})
    (directory / "chat_template.jinja").write_bytes(b"{% for m in messages %}\r\n")
    (directory / "README.md").write_text("not a tokenizer file")
    return directory


def chosen(directory: Path, size: int) -> VocabularyChoice:
    contents = read_tokenizer(directory)
    return select(contents, zeros(contents), size, named_ids(directory))


def test_every_file_is_planned_and_all_agree(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    choice = chosen(directory, 261)
    planned = plan_tokenizer(directory, choice)
    assert planned.keys() == before.keys() - {"README.md"}
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
    for name in ("special_tokens_map.json", "chat_template.jinja"):
        assert planned[name] == before[name]

    read = {name: json.loads(planned[name]) for name in planned if name.endswith(".json")}
    tokenizer = load(read["tokenizer.json"])
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(261))
    assert read["vocab.json"] == read["tokenizer.json"]["model"]["vocab"]
    assert read["added_tokens.json"] == {t: vocabulary[t] for t in ("<s>", "</s>", "<pad>")}
    config = read["tokenizer_config.json"]
    assert {int(i): t["content"] for i, t in config["added_tokens_decoder"].items()} == {
        vocabulary[t]: t for t in ("<s>", "</s>", "<pad>")
    }
    assert config["eos_token_id"] == vocabulary["</s>"]
    old_config = json.loads(before["tokenizer_config.json"])
    for key in old_config.keys() - {"added_tokens_decoder", "eos_token_id"}:
        assert config[key] == old_config[key]
    assert planned["merges.txt"].decode() == "#version: 0.2\na b\nd e\n"
    # "de" is named as the mask token, so it is kept although its merge is the last.
    assert "de" in vocabulary
    assert encode(tokenizer, "abc de<pad>") == [
        vocabulary[t] for t in ("ab", "c", "Ġ", "de", "<pad>")
    ]


def test_all_kept_changes_no_contents(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    contents = read_tokenizer(directory)
    planned = plan_tokenizer(directory, chosen(directory, len(zeros(contents))))
    for name, new in planned.items():
        old = (directory / name).read_bytes()
        if name.endswith(".json"):
            assert json.loads(new) == json.loads(old)
        else:
            assert new == old


def test_only_what_is_there_is_planned(tmp_path: Path) -> None:
    contents = tokenizer_json(MERGES)
    write(tmp_path / "tokenizer.json", contents)
    assert plan_tokenizer(tmp_path, chosen(tmp_path, 258)).keys() == {"tokenizer.json"}


def _edit(directory: Path, name: str, **changes: Any) -> None:
    path = directory / name
    write(path, json.loads(path.read_text(encoding="utf-8")) | changes)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("tokenizer_config.json", {"pad_token": "<new>"}, "pad_token is '<new>', .* lacks"),
        ("tokenizer_config.json", {"extra_special_tokens": ["<new>"]}, "extra_special_tokens"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"3": {"content": "<s>"}}},
            "added_tokens_decoder gives '<s>' the id 3",
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": "<s>"}}, "'x' is not an id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": {}}}, "is not a token"),
        ("special_tokens_map.json", {"unk_token": "<new>"}, r"map\.json: unk_token"),
        ("added_tokens.json", {"<s>": 77}, r"added_tokens\.json gives '<s>' the id 77"),
        ("vocab.json", {"ab": 77}, r"vocab\.json gives 'ab' the id 77"),
        ("vocab.json", {"new": 77}, r"vocab\.json gives 'new' the id 77"),
    ],
)
def test_files_that_disagree_are_refused(
    tmp_path: Path, name: str, changes: Json, said: str
) -> None:
    directory = saved(tmp_path)
    choice = chosen(directory, 262)
    _edit(directory, name, **changes)
    with pytest.raises(UserError, match=said) as error:
        plan_tokenizer(directory, choice)
    assert "\n" not in str(error.value)


def test_other_merges_and_malformed_files_are_refused(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    choice = chosen(directory, 262)
    merges = (directory / "merges.txt").read_text(encoding="utf-8")
    (directory / "merges.txt").write_text(merges + "b c\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"merges\.txt: the merges are not those"):
        plan_tokenizer(directory, choice)
    (directory / "vocab.json").write_text("[]")
    with pytest.raises(UserError, match=r"vocab\.json: a JSON object"):
        plan_tokenizer(directory, choice)
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: not JSON"):
        plan_tokenizer(directory, choice)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer that transformers can load"):
        plan_tokenizer(directory, choice)
    (directory / "vocab.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        plan_tokenizer(directory, choice)


def test_a_named_token_that_is_not_kept_is_refused(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    contents = read_tokenizer(directory)
    choice = select(contents, zeros(contents), 260)
    assert contents["model"]["vocab"]["de"] not in choice.kept
    with pytest.raises(UserError, match=r"special_tokens_map\.json: mask_token has the id"):
        plan_tokenizer(directory, choice)


def test_other_forms_of_the_vocabulary_are_found(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    assert stale_files(directory) == []
    others = ["qwen.tiktoken", "source.spm", "tekken.json", "tokenizer.model", "vocab-src.json"]
    for name in (*others, "model.safetensors"):
        (directory / name).touch()
    assert stale_files(directory) == others


def test_transformers_reads_the_result_as_planned(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    saved(source)
    choice = chosen(source, 261)
    for name, contents in plan_tokenizer(source, choice).items():
        (target / name).write_bytes(contents)
    mapping = choice.mapping()
    before, after = (AutoTokenizer.from_pretrained(d) for d in (source, target))
    assert len(after) == 261
    for text in ("ab<s>de</s>", "é <pad>c"):
        old = before(text, add_special_tokens=False).input_ids
        assert after(text, add_special_tokens=False).input_ids == [mapping[i] for i in old]
    lost = "abcabc a"
    assert after.decode(after(lost, add_special_tokens=False).input_ids) == lost
    for name in ("bos_token_id", "eos_token_id"):
        assert getattr(after, name) == mapping[getattr(before, name)]
    assert after.chat_template == before.chat_template


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys, regrow.tokenizers.families, regrow.tokenizers.tokenizer_files;"
        "import regrow.tokenizers.encoding;"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_kept_ids_are_the_embedding_rows(tmp_path: Path) -> None:
    """Rows carved by ``kept`` lie where the new tokenizer looks for them."""
    directory = saved(tmp_path)
    choice = chosen(directory, 261)
    old = load(read_tokenizer(directory)).get_vocab(with_added_tokens=True)
    new = load(json.loads(plan_tokenizer(directory, choice)["tokenizer.json"])).get_vocab()
    rows = np.arange(300)[choice.kept]
    assert all(rows[token] == old[content] for content, token in new.items())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", b'{"added_tokens_decoder": 3}', "added_tokens_decoder: 3 is no"),
        ("tokenizer_config.json", b'{"additional_special_tokens": true}', "True is no list"),
        ("special_tokens_map.json", b'{"extra_special_tokens": "a"}', "'a' is no list of tokens"),
        ("added_tokens.json", b'{"<s>": [1]}', "the id"),
        ("merges.txt", b"\xff", "merges.txt: not UTF-8"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja: not UTF-8"),
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    directory = saved(tmp_path)
    (directory / name).write_bytes(content)
    kept = VocabularyChoice(np.arange(263, dtype=np.int64), ())

    def plan() -> None:
        vocabulary_candidates(directory, zeros(read_tokenizer(directory)))
        plan_tokenizer(directory, kept)

    with pytest.raises(UserError, match=message):
        plan()
