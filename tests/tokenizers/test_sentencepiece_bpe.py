"""The guarantees of a pruned SentencePiece BPE, in both forms."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.models.loading import load_tokenizer
from regrow.tokenizers.alphabet import BYTE_TOKENS, SPACE
from regrow.tokenizers.families import Constraints, family_of, prune_tokenizer_json
from regrow.tokenizers.sentencepiece_model import SentencePieceModel, read_sentencepiece_models
from regrow.tokenizers.tokenizer_files import plan_tokenizer, read_tokenizer, vocabulary_candidates
from tests.tokenizers.bpe_cases import Json, built_alone, decode, load, total, zeros
from tests.tokenizers.checks import (
    Case,
    Pruned,
    check_pieces,
    least_size,
    processor,
    random_counts,
    select,
    train_pieces,
    write_all,
)
from tests.tokenizers.sentencepiece_bpe_cases import bpe_json, bpe_model, wild_scores
from tests.tokenizers.test_sentencepiece_model import REAL, TEXTS

texts = st.lists(
    st.one_of(
        st.text("abc é日", max_size=12),
        st.text(max_size=6),
        st.sampled_from(["</s>", "[img]", "  ", SPACE, "<0x41>", "😀"]),
    ),
    max_size=5,
).map("".join)


def piece_file(directory: Path, model: bytes) -> SentencePieceModel:
    (directory / "tokenizer.model").write_bytes(model)
    return read_sentencepiece_models(directory)[0]


@settings(max_examples=100, deadline=None)
@given(wild_scores(), st.booleans(), st.booleans(), st.data(), st.lists(texts, max_size=6))
def test_kept_text_encodes_the_same_and_all_text_decodes_the_same(
    scores: dict[str, float],
    byte_fallback: bool,
    ignore_merges: bool,
    data: st.DataObject,
    drawn: list[str],
) -> None:
    contents = bpe_json(
        scores, outside=["[img]"], byte_fallback=byte_fallback, ignore_merges=ignore_merges
    )
    size = data.draw(st.integers(least_size(contents), total(contents)))
    choice = select(contents, random_counts(contents, data.draw(st.integers(0, 99))), size)
    pruned = Pruned(contents, prune_tokenizer_json(contents, choice.kept), choice.kept)
    pruned.check_dense()
    longest = sorted(choice.kept.tolist(), key=lambda i: -len(pruned.before.id_to_token(i) or ""))
    spelled = data.draw(st.lists(st.sampled_from(longest[:20]), max_size=8))
    emitted = built_alone(contents) | {token["content"] for token in contents["added_tokens"]}
    for text in [*drawn, decode(pruned.before, spelled)]:
        pruned.check(text)
        if not ignore_merges:
            assert {t for t in pruned.after.encode(text).tokens if t not in BYTE_TOKENS} <= emitted


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=100, deadline=None)
@given(
    scores=wild_scores(),
    byte_fallback=st.booleans(),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    drawn=st.lists(texts, min_size=1, max_size=6),
)
def test_sentencepiece_keeps_the_guarantees_too(
    scores: dict[str, float],
    byte_fallback: bool,
    seed: int,
    share: float,
    drawn: list[str],
    scratch: Path,
) -> None:
    contents = bpe_json(scores, byte_fallback=byte_fallback)
    file = piece_file(scratch, bpe_model(scores, byte_fallback=byte_fallback))
    (scratch / "tokenizer.json").write_text(json.dumps(contents))
    found = vocabulary_candidates(scratch, random_counts(contents, seed))
    choice = found.choose(int(found.least + share * (found.most - found.least)))
    files = plan_tokenizer(scratch, choice)
    before, after = processor(file.raw), processor(files["tokenizer.model"])
    assert len(after) == len(choice.kept)
    for text in drawn:
        check_pieces(before, after, text)


def test_both_paths_to_a_piece_are_kept(tmp_path: Path) -> None:
    """sentencepiece builds "abc" over "bc", whose score is higher; the list has only (ab, c)."""
    scores = dict.fromkeys(("a", "b", "c", SPACE), -9.0) | {"bc": -1.0, "ab": -2.0, "abc": -3.0}
    contents = bpe_json(scores, merges=[["a", "b"], ["ab", "c"]])
    file = piece_file(tmp_path, bpe_model(scores))
    vocab = contents["model"]["vocab"]
    counts = zeros(contents)
    counts[vocab["abc"]] = 1
    least = least_size(contents)
    names = {token: content for content, token in vocab.items()}
    for files, path in (([], {"ab"}), ([file], {"ab", "bc"})):
        choice = select(contents, counts, least + 4 + len(path), sentencepiece_models=files)
        kept = {names[i] for i in choice.kept.tolist()}
        assert {"abc", *path} <= kept
    with pytest.raises(UserError, match=r"'bc' .* without which 'abc'"):
        prune_tokenizer_json(contents, np.delete(np.arange(len(vocab)), vocab["bc"]), [file])


def test_a_piece_that_could_not_be_built_stays_so(tmp_path: Path) -> None:
    """(b, c) comes first, so "abcd" is never built of "ab" and "cd"; without "bc" it could be."""
    scores = dict.fromkeys(("a", "b", "c", "d", SPACE), -9.0)
    scores |= {"bc": -1.0, "ab": -2.0, "cd": -3.0, "abcd": -4.0}
    scores["caa"] = -5.0  # of "ca" and "aa", which are no pieces
    contents = bpe_json(scores)
    file = piece_file(tmp_path, bpe_model(scores))
    assert built_alone(contents).isdisjoint({"abcd", "caa"})
    everything = np.arange(len(contents["model"]["vocab"]))
    gone = contents["model"]["vocab"]["bc"]
    pruned = prune_tokenizer_json(contents, np.delete(everything, gone), [file])
    assert {"abcd", "caa"} <= pruned["model"]["vocab"].keys()
    assert built_alone(pruned).isdisjoint({"abcd", "caa"})
    kinds = {p.content: p.kind for p in _read(tmp_path, file.prune({"bc"}))}
    assert (kinds["abcd"], kinds["caa"], kinds["ab"]) == ("control", "normal", "normal")
    before, after = processor(file.raw), processor(file.prune({"bc"}))
    assert after.encode("abcd", out_type=str) == [SPACE, "ab", "cd"]
    assert "abcd" not in before.encode("abcd", out_type=str)


def _read(directory: Path, model: bytes) -> Any:
    return piece_file(directory, model).pieces


def test_characters_go_with_bytes_and_stay_without() -> None:
    scores = {c: -float(i) for i, c in enumerate(("a", "b", SPACE, "日", "ab"))}
    with_bytes = bpe_json(scores)
    assert least_size(with_bytes) == 3 + 256 + 1
    pruned = Pruned(
        with_bytes,
        prune_tokenizer_json(with_bytes, np.array([*range(259), 261])),
        np.array([*range(259), 261]),
    )
    assert pruned.after.encode("a 日").tokens.count(SPACE) == 2
    pruned.check("a 日 b")
    without = bpe_json(scores, byte_fallback=False)
    assert least_size(without) == 3 + 4
    few = select(without, zeros(without), 3, constraints=Constraints(characters=False))
    assert len(few.kept) == 3
    without["model"]["unk_token"] = None  # the library would leave unknown characters out
    with pytest.raises(UserError, match=r"the least is 7, .* 4 byte"):
        select(without, zeros(without), 3, constraints=Constraints(characters=False))


@pytest.mark.parametrize("symbol", ["<0xC3>", "<unk>"])
def test_symbols_that_merge_with_text_are_refused(symbol: str) -> None:
    scores = {c: -float(i) for i, c in enumerate(("a", SPACE, f"a{symbol}"))}
    contents = bpe_json(scores, merges=[["a", symbol]])
    with pytest.raises(UserError, match=f"'{symbol}' is part of a merge"):
        select(contents, zeros(contents), 262)


def test_the_kind_is_told_by_the_byte_level() -> None:
    assert family_of(bpe_json({"a": 0.0})) == "SentencePiece BPE"
    assert family_of(bpe_json({"a": 0.0}, byte_fallback=False)) == "SentencePiece BPE"


# As trained


def llama(directory: Path, **options: Any) -> Path:
    """A `tokenizer.model` as Llama 2's, alone."""
    model = train_pieces(
        vocab_size=480, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        **options,
    )  # fmt: skip
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, **names}
    files = {"tokenizer.model": model, "tokenizer_config.json": json.dumps(config).encode()}
    return write_all(directory, files)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Case:
    source = llama(tmp_path_factory.mktemp("llama") / "in")
    return Case(source, source.parent / "out", "tokenizer.model", 0.4)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_llama_keeps_its_guarantees_and_step(text: str, trained: Case) -> None:
    trained.check(text)


def test_llama_is_read_by_transformers_as_planned(trained: Case, tmp_path: Path) -> None:
    """Also from its `.model` alone."""
    write_all(tmp_path, {k: v for k, v in trained.files.items() if k != "tokenizer.json"})
    before: Any = load_tokenizer(trained.source)
    some = 0
    for directory in (trained.directory, tmp_path):
        tokenizer: Any = load_tokenizer(directory)
        assert len(tokenizer) == len(trained.choice.kept)
        for text in REAL:
            old, new = before(text).input_ids, tokenizer(text).input_ids
            assert tokenizer.decode(new) == before.decode(old)
            if set(old) <= trained.json.mapping.keys():
                some += 1
                assert new == [trained.json.mapping[i] for i in old]
    assert some


def test_the_pad_token_that_transformers_adds_is_one_of_the_tokens(trained: Case) -> None:
    contents: Json = read_tokenizer(trained.source)
    added = {token["content"]: token["id"] for token in contents["added_tokens"]}
    assert added["<pad>"] in trained.choice.kept
    assert load(json.loads(trained.files["tokenizer.json"])).token_to_id("<pad>") is not None
