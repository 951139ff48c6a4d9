"""A `.model` of sentencepiece and its tokenizer.json: in step before and after."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.models.loading import load_tokenizer
from regrow.models.networks import register
from regrow.tokenizers.alphabet import BYTE_TOKENS
from regrow.tokenizers.sentencepiece_model import read_sentencepiece_models
from regrow.tokenizers.tokenizer_files import read_tokenizer, vocabulary_candidates
from tests.models.openba_files import write_tokenizer
from tests.tokenizers.bpe_cases import Json, total, zeros
from tests.tokenizers.checks import TEXT, Case, check_pieces, plain, train_pieces, write_all

REAL = [*TEXT, *(word for line in TEXT for word in re.split(r"\W", line) if word)]
"""Text with which a tokenizer was trained, and its words alone."""
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(REAL),
        st.text(st.sampled_from("".join(TEXT)), max_size=8),
        st.text(st.characters(exclude_categories=("Cs", "Mn", "Mc", "Me", "Cf", "Sk", "Lm"))),
        st.sampled_from(["😀", "  ", "\n\n", "<extra_id_0>", "<S>", "<0x41>"]),
    ),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module")
def openba(tmp_path_factory: pytest.TempPathFactory) -> Case:
    register()
    source = write_tokenizer(tmp_path_factory.mktemp("openba") / "in")
    return Case(source, source.parent / "out", "spiece.model", 0.3)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_openba_keeps_its_guarantees_and_step(text: str, openba: Case) -> None:
    openba.check(text)


def test_text_it_was_counted_on_is_encoded_as_before(openba: Case) -> None:
    kept = [openba.json.check(text) for text in REAL]
    assert any(kept)
    assert not all(kept)


def test_openba_sentinels_and_modes_are_found_by_name(openba: Case) -> None:
    """Read from the `.model` alone, as it was published, and from tokenizer.json."""
    alone = openba.directory.with_name("alone")
    write_all(alone, {k: v for k, v in openba.files.items() if k != "tokenizer.json"})
    for directory in (openba.directory, alone):
        tokenizer = load_tokenizer(directory)
        names = [f"<extra_id_{i}>" for i in reversed(range(100))] + ["<R>", "<S>", "<X>"]
        ids = tokenizer.convert_tokens_to_ids(names)
        assert ids == list(range(len(openba.choice.kept) - 103, len(openba.choice.kept)))
        assert len(tokenizer) == len(openba.choice.kept)
        found = tokenizer("<S> the row <extra_id_0>").input_ids
        assert found == openba.json.after.encode("<S> the row <extra_id_0>").ids
        assert found[0] == ids[-2]
        named = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        assert named == (0, 1, 2)
    assert json.loads(openba.files["added_tokens.json"]) == dict(
        zip(("<R>", "<S>", "<X>"), ids[-3:], strict=True)
    )


def test_every_piece_kept_changes_nothing(tmp_path: Path) -> None:
    register()
    source = write_tokenizer(tmp_path / "in")
    case = Case(source, tmp_path / "out", "spiece.model", 1.0)
    assert len(case.choice.kept) == total(case.contents)
    for path in source.iterdir():
        if path.suffix == ".json":
            assert json.loads(case.files[path.name]) == json.loads(path.read_bytes())
        else:
            assert case.files[path.name] == path.read_bytes()


def t5(directory: Path, **options: Any) -> Path:
    """As T5's: no bytes, sentinels by number, nothing but the `.model`."""
    directory.mkdir()
    model = train_pieces(
        vocab_size=200, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0, **options
    )
    (directory / "spiece.model").write_bytes(model)
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 10}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Case:
    source = t5(tmp_path_factory.mktemp("t5") / "in")
    return Case(source, source.parent / "out", "spiece.model", 0.3)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_t5_keeps_its_guarantees(text: str, characters: Case) -> None:
    characters.json.check(text)
    check_pieces(characters.before, characters.after, text)


def test_t5_is_read_by_transformers_as_planned(characters: Case, tmp_path: Path) -> None:
    """Also from its `.model` alone."""
    reasons = set(characters.choice.reasons)
    assert "character" in reasons
    write_all(tmp_path, {k: v for k, v in characters.files.items() if k != "tokenizer.json"})
    for directory in (characters.directory, tmp_path):
        tokenizer = load_tokenizer(directory)
        assert len(tokenizer) == len(characters.choice.kept)
        for text in REAL:
            found = tokenizer(text, add_special_tokens=False).input_ids
            assert found == plain(characters.json.after, text)
        sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(10)])
        assert sentinels == sorted(sentinels, reverse=True)
        assert max(sentinels) == len(tokenizer) - 1


def xlm_roberta(directory: Path) -> Path:
    """As XLM-R's: its ids are one more than those of the pieces."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "XLMRobertaTokenizer", "mask_token": "<mask>", **names}
    return write_all(
        directory,
        {
            "sentencepiece.bpe.model": train_pieces(vocab_size=200, character_coverage=1.0),
            "tokenizer_config.json": json.dumps(config).encode(),
        },
    )


def test_ids_that_are_shifted_stay_shifted(tmp_path: Path) -> None:
    source = xlm_roberta(tmp_path / "in")
    case = Case(source, tmp_path / "out", "sentencepiece.bpe.model", 0.4)
    for text in REAL:
        case.json.check(text)
        check_pieces(case.before, case.after, text)
        assert plain(case.json.before, text) == [i + 1 for i in case.before.encode(text)]
        assert plain(case.json.after, text) == [i + 1 for i in case.after.encode(text)]
    tokenizer: Any = load_tokenizer(case.directory)
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    last = len(case.choice.kept) - 1
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, last]


def test_the_model_needs_its_characters_whatever_tokenizer_json_does(tmp_path: Path) -> None:
    """tokenizer.json falls back to bytes, the `.model` beside it does not."""
    source = t5(tmp_path / "in")
    contents = read_tokenizer(source)
    entries = contents["model"]["vocab"] + [[byte, 0.0] for byte in BYTE_TOKENS]
    contents["model"] |= {"byte_fallback": True, "vocab": entries}
    contents["added_tokens"] = []
    contents["post_processor"] = None
    (source / "tokenizer.json").write_text(json.dumps(contents))
    (source / "tokenizer_config.json").unlink()
    found = vocabulary_candidates(source, zeros(contents))
    assert "character" in found.required.values()
    (source / "spiece.model").unlink()
    assert "character" not in vocabulary_candidates(source, zeros(contents)).required.values()


def test_user_defined_pieces_and_the_greatest_score_stay(tmp_path: Path) -> None:
    source = t5(tmp_path / "in", user_defined_symbols=["[img]", "row"])
    case = Case(source, tmp_path / "out", "spiece.model", 0.0)
    pieces = read_sentencepiece_models(source)[0].pieces
    greatest = max((p for p in pieces if p.is_text), key=lambda p: p.score).content
    known = {case.after.id_to_piece(i) for i in range(len(case.after))}
    assert {"[img]", "row", greatest} <= known
    for text in (*REAL, "a[img] rows b"):
        check_pieces(case.before, case.after, text)


def test_the_piece_of_least_score_stays(openba: Case) -> None:
    """sentencepiece scores what is unknown by it, whatever tokenizer.json has."""
    file = read_sentencepiece_models(openba.source)[0]
    least = min((piece for piece in file.pieces if piece.is_text), key=lambda piece: piece.score)
    assert file.required()[least.content] == "score"


def test_ids_of_the_trainer_follow(tmp_path: Path) -> None:
    """OpenBA's tokenizer reads unk_id and eos_id from there."""
    source = tmp_path / "in"
    model = train_pieces(
        vocab_size=360, pad_id=340, eos_id=341, unk_id=342, bos_id=-1, byte_fallback=True
    )
    write_all(source, {"spiece.model": model})
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "OpenBATokenizer"}')
    register()
    files = Case(source, tmp_path / "out", "spiece.model", 0.1).files
    write_all(tmp_path / "alone", {"spiece.model": files["spiece.model"]})
    proto = read_sentencepiece_models(tmp_path / "alone")[0].proto
    trained = proto.trainer_spec
    assert trained.vocab_size == len(proto.pieces) < 340
    ids = (trained.pad_id, trained.eos_id, trained.unk_id)
    assert [proto.pieces[i].piece for i in ids] == ["<pad>", "</s>", "<unk>"]
    assert trained.bos_id == -1


def _model(**options: Any) -> bytes:
    return train_pieces(vocab_size=120, model_type="bpe", **options)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"not one", "spiece.model: not a model of sentencepiece"),
        (b"", "it has no pieces"),
        (_model(), "spiece.model is SentencePiece BPE, tokenizer.json Unigram"),
        (train_pieces(vocab_size=150), "spiece.model has '.*', which tokenizer.json lacks"),
    ],
)
def test_a_model_that_is_not_the_tokenizers_is_refused(
    tmp_path: Path, model: bytes, said: str, openba: Case
) -> None:
    write_all(tmp_path, openba.files)
    (tmp_path / "spiece.model").write_bytes(model)
    with pytest.raises(UserError, match=said) as error:
        vocabulary_candidates(tmp_path, zeros(read_tokenizer(tmp_path)))
    assert "\n" not in str(error.value)


def test_without_sentencepiece_a_model_is_refused(
    tmp_path: Path, openba: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path, openba.files)
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(UserError, match=r"spiece\.model: needs pip install .*sentencepiece"):
        vocabulary_candidates(tmp_path, zeros(read_tokenizer(tmp_path)))
    (tmp_path / "spiece.model").unlink()
    contents: Json = read_tokenizer(tmp_path)
    assert vocabulary_candidates(tmp_path, zeros(contents)).most == total(contents)
