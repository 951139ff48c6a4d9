"""The guarantees of a pruned WordPiece tokenizer, checked with the tokenizers library."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer

from regrow.common.errors import UserError
from regrow.models.loading import load_tokenizer
from regrow.tokenizers.families import Constraints, VocabularyChoice, prune_tokenizer_json
from regrow.tokenizers.tokenizer_files import (
    plan_tokenizer,
    read_tokenizer,
    stale_files,
    vocabulary_candidates,
)
from tests.tokenizers.bpe_cases import Json, added_token, decode, encode, load, total, zeros
from tests.tokenizers.checks import TEXT, Pruned, least_size, random_counts, select, write_all
from tests.tokenizers.unigram_cases import contents_of

BEFORE = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def wordpiece_json(tokens: list[str], most: int = 100, outside: tuple[str, ...] = ()) -> Json:
    """As BERT's."""
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*BEFORE, *tokens]))}
    added = [added_token(content, i) for i, content in enumerate(BEFORE)]
    added += [added_token(c, len(vocab) + i, special=False) for i, c in enumerate(outside)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": most, "vocab": vocab,
        },
    }  # fmt: skip


@st.composite
def wild_wordpiece(draw: st.DrawFn, closed: bool = True) -> Json:
    """Tokens that no training gives. ``closed``: each character of a token has its own there."""
    pieces = draw(
        st.lists(
            st.tuples(st.sampled_from(["", "##"]), st.text("abcdß日", min_size=1, max_size=4)),
            min_size=1,
            max_size=24,
        )
    )
    tokens = [prefix + text for prefix, text in pieces]
    if closed:
        for prefix, text in pieces:
            tokens += [prefix + text[0], *("##" + character for character in text[1:])]
    return wordpiece_json(
        draw(st.permutations(tokens)),
        most=draw(st.sampled_from([4, 100])),
        outside=tuple(draw(st.lists(st.sampled_from(["[img]", "ab c"]), unique=True))),
    )


texts = st.lists(
    st.one_of(
        st.text("abcd ß日.", max_size=12),
        st.text(max_size=6),
        st.sampled_from(["[SEP]", "[img]", "ab c", "##a", "bcd" * 40, "don't"]),
    ),
    max_size=5,
).map("".join)


@st.composite
def choices(draw: st.DrawFn) -> tuple[Json, VocabularyChoice]:
    contents = draw(wild_wordpiece())
    size = draw(st.integers(least_size(contents), total(contents)))
    return contents, select(contents, random_counts(contents, draw(st.integers(0, 99))), size)


@settings(max_examples=120, deadline=None)
@given(choices(), st.lists(texts, min_size=1, max_size=6), st.data())
def test_kept_text_encodes_the_same_and_all_text_decodes_the_same(
    case: tuple[Json, VocabularyChoice], drawn: list[str], data: st.DataObject
) -> None:
    contents, choice = case
    pruned = Pruned(contents, prune_tokenizer_json(contents, choice.kept), choice.kept)
    pruned.check_dense()
    longest = sorted(choice.kept.tolist(), key=lambda i: -len(pruned.before.id_to_token(i) or ""))
    spelled = data.draw(st.lists(st.sampled_from(longest[:20]), max_size=8))
    for text in [*drawn, decode(pruned.before, spelled)]:
        pruned.check(text)


@settings(max_examples=120, deadline=None)
@given(wild_wordpiece(), st.data(), texts)
def test_text_of_kept_tokens_needs_no_characters(
    contents: Json, data: st.DataObject, text: str
) -> None:
    size = data.draw(st.integers(len(contents["added_tokens"]), total(contents)))
    counts = random_counts(contents, data.draw(st.integers(0, 99)))
    choice = select(contents, counts, size, constraints=Constraints(characters=False))
    before, after = load(contents), load(prune_tokenizer_json(contents, choice.kept))
    mapping, old = choice.mapping(), encode(before, text)
    if all(token in mapping for token in old):
        assert encode(after, text) == [mapping[token] for token in old]


@settings(max_examples=100, deadline=None)
@given(wild_wordpiece(closed=False), st.data(), texts)
def test_known_words_of_kept_tokens_need_nothing_at_all(
    contents: Json, data: st.DataObject, text: str
) -> None:
    """Not even that each character has a token of its own."""
    size = data.draw(st.integers(least_size(contents), total(contents)))
    choice = select(contents, random_counts(contents, data.draw(st.integers(0, 99))), size)
    before, after = load(contents), load(prune_tokenizer_json(contents, choice.kept))
    mapping, old = choice.mapping(), encode(before, text)
    if all(token in mapping for token in old) and before.token_to_id("[UNK]") not in old:
        assert encode(after, text) == [mapping[token] for token in old]


def test_the_exception_is_one() -> None:
    """ "##c" and "##d" are in "##bcd" only: without "ab", a word that did not fit does."""
    contents = wordpiece_json(["a", "ab", "##b", "##bcd"])
    assert load(contents).encode("abcd").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    choice = select(contents, zeros(contents), least_size(contents))
    pruned = prune_tokenizer_json(contents, choice.kept)
    assert load(pruned).encode("abcd").tokens == ["[CLS]", "a", "##bcd", "[SEP]"]


def test_characters_stay_at_the_beginning_and_inside() -> None:
    contents = wordpiece_json(["ab", "a", "b", "##a", "##b", "##ab", "##"])
    choice = select(contents, zeros(contents), least_size(contents))
    reasons = dict(zip(choice.kept.tolist(), choice.reasons, strict=True))
    vocab = contents["model"]["vocab"]
    assert {t for t, i in vocab.items() if reasons.get(i) == "character"} >= {
        "a", "b", "##a", "##b",
    }  # fmt: skip
    assert not {vocab["ab"], vocab["##ab"]} & reasons.keys()
    del contents["model"]["vocab"]["[UNK]"]  # the library would fail at an unknown word
    contents["model"]["vocab"]["[unk]"] = 1
    contents["added_tokens"][1]["content"] = "[unk]"
    with pytest.raises(UserError, match=r"byte"):
        select(contents, zeros(contents), 5, constraints=Constraints(characters=False))


def bert(directory: Path) -> Path:
    """A tokenizer that the library trained, saved as BERT's is."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(vocab_size=220, special_tokens=list(BEFORE), show_progress=False)
    inner.train_from_iterator(list(TEXT) * 3, trainer)
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    contents = contents_of(inner)
    tokens = sorted(contents["model"]["vocab"].items(), key=lambda entry: entry[1])
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    config = {"tokenizer_class": "BertTokenizer", "mask_token": None, **names}
    return write_all(
        directory,
        {
            "tokenizer.json": json.dumps(contents).encode(),
            "vocab.txt": "".join(f"{token}\n" for token, _ in tokens).encode(),
            "tokenizer_config.json": json.dumps(config).encode(),
        },
    )


def test_bert_in_every_form(tmp_path: Path) -> None:
    """tokenizer.json and vocab.txt, and vocab.txt alone, as transformers reads them."""
    source = bert(tmp_path / "in")
    contents = read_tokenizer(source)
    counts = zeros(contents)
    for text in TEXT[:3]:
        for token in encode(load(contents), text):
            counts[token] += 1
    found = vocabulary_candidates(source, counts)
    choice = found.choose((found.least + found.most) // 2)
    files = plan_tokenizer(source, choice)
    assert stale_files(source) == ["vocab.txt"]
    assert files.keys() == {"tokenizer.json", "vocab.txt", "tokenizer_config.json"}
    both = write_all(tmp_path / "both", files)
    alone = write_all(tmp_path / "alone", {k: v for k, v in files.items() if k != "tokenizer.json"})
    pruned = Pruned(contents, json.loads(files["tokenizer.json"]), choice.kept)
    checked = [pruned.check(text) for text in TEXT]
    assert any(checked)
    assert not all(checked)
    for directory in (both, alone):
        tokenizer: Any = load_tokenizer(directory)
        assert len(tokenizer) == len(choice.kept)
        for text in TEXT:
            assert tokenizer(text).input_ids == encode(pruned.after, text)

    (source / "tokenizer.json").unlink()
    planned = plan_tokenizer(source, choice)
    assert planned["vocab.txt"] == files["vocab.txt"]
    lines = (source / "vocab.txt").read_text(encoding="utf-8").split("\n")
    write_all(source, {"tokenizer.json": json.dumps(contents).encode()})
    (source / "vocab.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(UserError, match=r"vocab\.txt gives '\[UNK\]' the id 0"):
        plan_tokenizer(source, choice)
