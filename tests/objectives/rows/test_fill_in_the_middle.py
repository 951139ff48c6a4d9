"""Documents with a gap: nothing of them is lost, and special tokens say where everything was."""

from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.rows.fill_in_the_middle import (
    REORDERED_SHARE,
    infilling_rows,
    infilling_tokens,
    reorder_documents,
)
from regrow.objectives.special_tokens import INFILLING_TOKENS, missing_infilling_tokens
from tests.tiny import add_tokenizer, sentences

NAMES = INFILLING_TOKENS[0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = add_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    made = transformers.AutoTokenizer.from_pretrained(directory)
    made.add_special_tokens({"additional_special_tokens": list(NAMES)})
    return made


def put_back(tokenizer: Any, ids: list[int]) -> str:
    """The text, from either order of the parts."""
    prefix, suffix, middle = tokenizer.convert_tokens_to_ids(list(NAMES))
    if prefix not in ids:
        return str(tokenizer.decode(ids))
    assert [ids.count(mark) for mark in (prefix, suffix, middle)] == [1, 1, 1]
    assert ids[0] == prefix
    at, then = ids.index(suffix), ids.index(middle)
    parts = [ids[1:at], ids[at + 1 : then], ids[then + 1 :]]
    before, after, last = (tokenizer.decode(part) for part in parts)
    return str(before + last + after)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abc é\n", max_size=60), max_size=8), st.integers(0, 2**40))
def test_nothing_is_lost(tokenizer: Any, texts: list[str], seed: int) -> None:
    found = [each.ids.tolist() for each in reorder_documents(texts, tokenizer, 24, seed)]
    assert "".join(put_back(tokenizer, ids) for ids in found) == "".join(texts)
    prefix = tokenizer.convert_tokens_to_ids(NAMES[0])
    # Parts are tokenised apart, so they may be longer than the whole was.
    assert all(len(ids) <= 24 for ids in found if prefix in ids)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("abc é\n", max_size=90), min_size=12, max_size=30),
    st.integers(0, 2**40),
    st.booleans(),
)
def test_no_row_has_a_part_of_a_reordered_document(
    tokenizer: Any, texts: list[str], seed: int, ends: bool
) -> None:
    """And every document is in the rows once, with all its tokens as labels."""
    texts = [*texts, "abc" * 20]
    tokenizer.chat_template = None if ends else "{{ eos_token }}"
    try:
        rows = infilling_rows(texts, tokenizer, 24, seed)
        documents = [each.ids.tolist() for each in reorder_documents(texts, tokenizer, 24, seed)]
    finally:
        tokenizer.chat_template = None
    prefix, suffix, middle = tokenizer.convert_tokens_to_ids(list(NAMES))
    every = np.arange(len(rows))
    batch = rows.batch(every, every)
    labels: list[int] = []
    for line, targets, places in zip(*(batch[name] for name in batch), strict=True):
        # A piece begins where positions begin again.
        for piece in np.split(line, np.flatnonzero(places == 0)[1:]):
            ids = piece.tolist()
            counts = [ids.count(mark) for mark in (prefix, suffix, middle)]
            assert counts in ([0, 0, 0], [1, 1, 1])
            if counts[0]:
                assert ids[1:] in documents
        labels += targets[targets != NOT_PREDICTED].tolist()
    end = [tokenizer.eos_token_id] if ends else []
    assert sorted(labels) == sorted(token for ids in documents for token in [*ids, *end])


def test_few_slots_stay_empty(tokenizer: Any) -> None:
    """With short documents nearly none, and with long ones as many as the spare tokens."""
    for texts, most in ((sentences(600), 0.02), ([" ".join(sentences(9))] * 100, 0.12)):
        rows = infilling_rows(texts, tokenizer, 256, 3)
        every = np.arange(len(rows))
        assert (rows.batch(every, every)["labels"] == NOT_PREDICTED).mean() < most


def test_half_is_reordered_and_half_of_that_begins_with_the_suffix(tokenizer: Any) -> None:
    texts = sentences(1_000)
    prefix, suffix, _ = tokenizer.convert_tokens_to_ids(list(NAMES))
    found = [each.ids.tolist() for each in reorder_documents(texts, tokenizer, 128, seed=3)]
    with_gap = [ids for ids in found if prefix in ids]
    whole = [ids for ids in found if prefix not in ids]
    assert abs(len(with_gap) / len(texts) - REORDERED_SHARE) < 0.05
    assert abs(np.mean([ids[1] == suffix for ids in with_gap]) - 0.5) < 0.07
    assert all(tokenizer.decode(ids) in texts for ids in whole)
    # Cuts lie within words too.
    inside = [put_back(tokenizer, ids) for ids in with_gap]
    assert set(inside) <= set(texts)
    gaps = [tokenizer.decode(ids[ids.index(suffix) + 1 :]) for ids in with_gap]
    assert sum(gap[:1].isalpha() for gap in gaps) > len(gaps) / 4


METASPACE: dict[str, Any] = {"prepend_scheme": "always"}
SPACED = {
    "▁": (
        tokenizers.pre_tokenizers.Metaspace(**METASPACE),
        tokenizers.decoders.Metaspace(**METASPACE),
    ),
    "Ġ": (
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True),
        tokenizers.decoders.ByteLevel(),
    ),
}
"""By the sign for a space, what puts one before each text, and what takes it away."""


@pytest.mark.parametrize("sign", SPACED)
def test_no_space_comes_before_what_follows_a_cut(sign: str) -> None:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = SPACED[sign]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<eos>", *NAMES], show_progress=False
    )
    inner.train_from_iterator([*sentences(50), "☺"], trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>"
    )
    assert made.convert_ids_to_tokens(made("river")["input_ids"])[0].startswith(sign)
    special = set(made.convert_tokens_to_ids(list(NAMES)))
    texts = sentences(60)
    found = [each.ids.tolist() for each in reorder_documents(texts, made, 200, 0)]
    assert len(found) == len(texts)
    for text, ids in zip(texts, found, strict=True):
        spelled = "".join(made.convert_ids_to_tokens([t for t in ids if t not in special]))
        # One for each space, and that of the text itself.
        assert spelled.count(sign) == 1 + text.count(" ")


def test_a_document_depends_on_its_number_and_the_seed(tokenizer: Any) -> None:
    texts = sentences(40)

    def ids(seed: int, of: list[str] = texts) -> list[list[int]]:
        return [found.ids.tolist() for found in reorder_documents(of, tokenizer, 64, seed)]

    assert ids(0) == ids(0) != ids(1)
    assert ids(0, texts[:20]) == ids(0)[:20]


def test_who_never_ends_a_document_ends_what_fills_a_gap(tokenizer: Any) -> None:
    prefix = tokenizer.convert_tokens_to_ids(NAMES[0])
    texts = sentences(20)
    plain = [each.ids.tolist() for each in reorder_documents(texts, tokenizer, 64, 0)]
    tokenizer.chat_template = "{{ eos_token }}"
    try:
        ended = [each.ids.tolist() for each in reorder_documents(texts, tokenizer, 64, 0)]
    finally:
        tokenizer.chat_template = None
    end = [tokenizer.eos_token_id]
    assert ended == [ids + end if prefix in ids else ids for ids in plain]
    assert ended != plain


def test_marks_are_found_by_any_of_their_names(tokenizer: Any, tmp_path_factory: Any) -> None:
    assert missing_infilling_tokens(tokenizer) == ()
    directory = add_tokenizer(tmp_path_factory.mktemp("bare"))
    for names in INFILLING_TOKENS:
        bare = transformers.AutoTokenizer.from_pretrained(directory)
        assert missing_infilling_tokens(bare) == NAMES
        with pytest.raises(UserError, match="no marks to fill in the middle with"):
            infilling_tokens(bare)
        bare.add_special_tokens({"additional_special_tokens": list(names)})
        found = infilling_tokens(bare)
        assert [found.prefix, found.suffix, found.middle] == bare.convert_tokens_to_ids(list(names))
