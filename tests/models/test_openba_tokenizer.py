"""The tokenizer of OpenBA against sentencepiece itself."""

# ruff: noqa: RUF001  # full-width letters are what is tested

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from regrow.models.networks import register
from regrow.models.openba import OpenBAConfig, OpenBATokenizer
from tests.models.openba_files import PIECES, TEXT, train, write_tokenizer


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tokenizer(tmp_path_factory.mktemp("published"))
    OpenBAConfig(vocab_size=PIECES + 110).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(published: Path) -> Any:
    register()
    found = AutoTokenizer.from_pretrained(published)
    assert isinstance(found, OpenBATokenizer)
    return found


@pytest.fixture(scope="module")
def pieces(published: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(published / "spiece.model"))


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u200b\u3000\ufeff"
CONTROLS = "".join(map(chr, [*range(1, 32), 127, 0x80, 0x9F, 0xAD]))
WORDS = (
    "table ", "the ", "row", "表格", "选项", " 12", "  ", "\n\n", "<0x41>", "<0x0A>", "<0x", "<",
    "<extra", "😀", "👨‍👩‍👧", "é", "ＡＢ", "①", "ﬁ", "½", "▁", "，",
    "한국어", "カ", "\U0010ffff", "\x00",
)  # fmt: skip
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from(SPACES),
        st.sampled_from(CONTROLS),
        st.text(st.sampled_from("".join(TEXT)), max_size=8),
        # Without combining marks and joiners: see the test below.
        st.text(st.characters(exclude_categories=("Cs", "Mn", "Mc", "Me", "Cf", "Sk", "Lm"))),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_ids_are_those_of_sentencepiece(text: str, tokenizer: Any, pieces: Any) -> None:
    assume(not any(name in text for name in tokenizer.all_special_tokens))  # their text is theirs
    assert ids(tokenizer, text) == pieces.encode(text)


def test_what_text_becomes(tokenizer: Any, pieces: Any) -> None:
    """So that the test above is not of empty lists."""
    assert ids(tokenizer, "😀")[1:] == [pieces.piece_to_id(f"<0x{b:02X}>") for b in "😀".encode()]
    assert ids(tokenizer, "a\n\n  b\t") == ids(tokenizer, "a b")
    assert len(ids(tokenizer, "<0x41>")) > 1
    assert ids(tokenizer, "") == ids(tokenizer, "  ") == []
    assert tokenizer("row").input_ids == [*ids(tokenizer, "row"), 1]
    pair = tokenizer("row", "table").input_ids
    assert pair == [*ids(tokenizer, "row"), 1, *ids(tokenizer, "table"), 1]


def test_the_mark_behind_a_replaced_character_is_lost(tokenizer: Any, pieces: Any) -> None:
    """The one difference: if this fails, the tokenizers library has mended it."""
    assert pieces.decode(ids(tokenizer, "Ａ\u064b")) == "A"
    assert pieces.decode(pieces.encode("Ａ\u064b")) == "A\u064b"
    for same in ("a\u064b", "e\u0301", "™\ufe0f", "👩\u200d🚀"):
        assert ids(tokenizer, same) == pieces.encode(same)


def test_a_model_that_does_not_normalise(tmp_path: Path) -> None:
    tokenizer = OpenBATokenizer.from_pretrained(train(tmp_path, normalization_rule_name="identity"))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for text in ("a\nb", " \n", "_ \n", "  row   table\t ", "ＡＢ①", "\u3000表格\x85", ""):
        assert ids(tokenizer, text) == pieces.encode(text), text
    assert tokenizer.decode(ids(tokenizer, "a\n  row\t\u3000表格")) == "a\n row\t\u3000表格"


# --- sentinels and modes -----------------------------------------------------------------------


def test_sentinels_and_modes_by_name(tokenizer: Any) -> None:
    """Behind the pieces; ids fall as the number of the sentinel rises."""
    sentinels = [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(100)]
    assert sentinels == [PIECES + 99 - i for i in range(100)]
    modes = tokenizer.convert_tokens_to_ids(["<R>", "<S>", "<X>"])
    assert modes == [PIECES + 100, PIECES + 101, PIECES + 102]
    assert len(tokenizer) == PIECES + 103
    named = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert named == (0, 1, 2)
    assert set(tokenizer.all_special_ids) == {0, 1, 2, *sentinels, *modes}


def test_text_of_a_sentinel_is_its_token(tokenizer: Any, pieces: Any) -> None:
    found = ids(tokenizer, "<S> the row <extra_id_0> 表格<extra_id_99>.")
    sentinel = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<S>", "<extra_id_0>")}
    assert found == [
        sentinel["<S>"], *pieces.encode("the row"), sentinel["<extra_id_0>"],
        *pieces.encode("表格"), PIECES, *pieces.encode("."),
    ]  # fmt: skip
    assert tokenizer.decode(found, skip_special_tokens=True).split() == ["the", "row", "表格", "."]


@pytest.mark.parametrize(
    "text",
    [
        "a table , a row . don't , do n't !", "要在表格中插入一行, 光标。",
        "emoji 😀 and 👩\u200d🚀 too",
        "<S> the row<extra_id_0> and<extra_id_1> the table.", "tabs and lines", "",
    ],
)  # fmt: skip
def test_decoding_undoes_encoding(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text
    batch = tokenizer([text, "row"], padding=True)
    assert tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)[1] == "row"


# --- files -------------------------------------------------------------------------------------


SAMPLES = (*TEXT, "<X> 表格 <extra_id_7>😀\n\n a  b", "<0x41>", "ＡＢ ①")


def test_saved_and_read_again(tokenizer: Any, published: Path, tmp_path: Path) -> None:
    """`tokenizer.json` alone, and beside the published files."""
    tokenizer.save_pretrained(tmp_path / "alone")
    both = tmp_path / "both"
    both.mkdir()
    for path in published.iterdir():
        (both / path.name).write_bytes(path.read_bytes())
    (both / "tokenizer.json").write_bytes((tmp_path / "alone/tokenizer.json").read_bytes())
    assert not (tmp_path / "alone/spiece.model").exists()
    for directory in (tmp_path / "alone", both):
        again = OpenBATokenizer.from_pretrained(directory)
        assert again.get_vocab() == tokenizer.get_vocab()
        for text in SAMPLES:
            found = again(text).input_ids
            assert found == tokenizer(text).input_ids
            for skip in (False, True):
                text_again = again.decode(found, skip_special_tokens=skip)
                assert text_again == tokenizer.decode(found, skip_special_tokens=skip)


@pytest.fixture
def without_sentencepiece(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sentencepiece")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)


@pytest.mark.usefixtures("without_sentencepiece")
def test_without_sentencepiece(published: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"spiece.model: reading it needs sentencepiece"):
        OpenBATokenizer.from_pretrained(published)
    tokenizer.save_pretrained(tmp_path)
    assert ids(OpenBATokenizer.from_pretrained(tmp_path), "row") == ids(tokenizer, "row")


def test_without_any_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(OSError, match=r"neither tokenizer.json nor spiece.model is there"):
        OpenBATokenizer.from_pretrained(tmp_path)


def test_added_tokens_in_other_places_are_refused(published: Path, tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes((published / "spiece.model").read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<S>": PIECES}))
    with pytest.raises(ValueError, match=f"<S> is {PIECES} in the directory, here {PIECES + 101}"):
        OpenBATokenizer.from_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<more>": PIECES + 103}))
    assert ids(OpenBATokenizer.from_pretrained(tmp_path), "<more>") == [PIECES + 103]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "bpe", "vocab_size": 340}, "no Unigram model"),
        ({"remove_extra_whitespaces": False}, "removes extra spaces"),
        ({"add_dummy_prefix": False}, "puts one in front"),
    ],
)
def test_another_kind_of_model_is_refused(
    options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    train(tmp_path, **options)
    with pytest.raises(ValueError, match=rf"spiece.model: .*{reason}"):
        OpenBATokenizer.from_pretrained(tmp_path)
