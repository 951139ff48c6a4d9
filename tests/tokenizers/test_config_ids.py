import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.tokenizers.config_ids import check_rows, referenced_ids, remap_ids

MAPPING = {0: 0, 2: 1, 5: 2, 7: 3, 9: 4}


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("bos_token_id", 2, 1),
        ("eos_token_id", [7, 2], [3, 1]),
        ("pad_token_id", None, None),
        ("pad_token_id", -1, -1),
        ("unk_token_id", 0, 0),
        ("sep_token_id", 9, 4),
        ("cls_token_id", 9, 4),
        ("mask_token_id", 9, 4),
        ("decoder_start_token_id", [5], [2]),
        ("forced_bos_token_id", 5, 2),
        ("forced_eos_token_id", [5, 7], [2, 3]),
        ("image_token_index", 9, 4),
        ("image_start_id", 9, 4),
        ("text_decoder_lang_to_code_id", {"eng": 7}, {"eng": 3}),
        ("insert_layer_id", 9, 9),
        ("suppress_tokens", [1, 2, 3, 9], [1, 4]),
        ("suppress_tokens", [1, 3], None),
        ("suppress_tokens", [-1], [-1]),
        ("suppress_tokens", [], []),
        ("begin_suppress_tokens", [7, 8], [3]),
        ("bad_words_ids", [[2], [2, 3], [5, 7]], [[1], [2, 3]]),
        ("bad_words_ids", [[3]], None),
        ("forced_decoder_ids", [[1, 7], [2, None]], [[1, 3], [2, None]]),
        ("force_words_ids", [[[2, 5], [7]], [9]], [[[1, 2], [3]], [4]]),
        ("sequence_bias", [[[2, 7], -1.5], [[3], 2.0]], [[[1, 3], -1.5]]),
        ("lang_to_id", {"<|en|>": 7, "<|de|>": 9}, {"<|en|>": 3, "<|de|>": 4}),
        ("vocab_size", 7, 7),
        ("hidden_size", 2, 2),
        ("return_token_ids", True, True),
    ],
)
def test_each_key_is_remapped_at_any_depth(key: str, old: Any, new: Any) -> None:
    for nest in (
        lambda entry: entry,
        lambda entry: {"text_config": entry, "layers": 2},
        lambda entry: {"decoder": {"inner": entry}, "eos_token_id": 5},
    ):
        config = nest({key: old})
        before = copy.deepcopy(config)
        expected = nest({key: new})
        if ("eos_token_id" in expected and key != "eos_token_id") or "decoder" in expected:
            expected["eos_token_id"] = 2
        assert remap_ids(config, MAPPING, "config.json") == expected
        assert config == before


def test_named_ids_come_with_their_first_place_and_suppressed_ones_do_not() -> None:
    config = {
        "eos_token_id": 7,
        "decoder": {"decoder_start_token_id": 2, "pad_token_id": None},
        "pad_token_id": -1,
    }
    generation = {
        "eos_token_id": [7, 9],
        "suppress_tokens": [1, 3],
        "bad_words_ids": [[4]],
        "forced_decoder_ids": [[1, 5]],
    }
    assert referenced_ids(config, generation, rows=10) == {
        7: "config.json: eos_token_id",
        2: "config.json: decoder.decoder_start_token_id",
        9: "generation_config.json: eos_token_id",
        5: "generation_config.json: forced_decoder_ids",
    }
    assert referenced_ids(config, None, rows=8).keys() == {7, 2}


@pytest.mark.parametrize("key", ["eos_token_id", "suppress_tokens"])
def test_an_id_beyond_the_embedding_is_refused(key: str) -> None:
    for beyond in (1000, 50279):
        value = beyond if key == "eos_token_id" else [beyond]
        with pytest.raises(UserError, match=rf"config\.json: {key} is {beyond}, .* 1,000 rows"):
            referenced_ids({key: value}, None, rows=1000)
    assert referenced_ids({"eos_token_id": 999}, None, rows=1000) == {
        999: "config.json: eos_token_id"
    }


def test_a_dropped_id_that_must_be_kept_is_refused() -> None:
    with pytest.raises(UserError, match=r"generation_config\.json: text\.eos_token_id is 3"):
        remap_ids({"text": {"eos_token_id": [2, 3]}}, MAPPING, "generation_config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eos_token_id", "7"),
        ("eos_token_id", 7.0),
        ("suppress_tokens", ["a"]),
        ("suppress_tokens", 7),
        ("bad_words_ids", [7]),
        ("forced_decoder_ids", [7]),
        ("sequence_bias", [[[7]]]),
    ],
)
def test_a_value_of_another_form_is_refused(key: str, value: Any) -> None:
    for check in (
        lambda: remap_ids({key: value}, MAPPING, "config.json"),
        lambda: referenced_ids({key: value}, None, rows=10),
    ):
        with pytest.raises(UserError, match=rf"config\.json: {key}: .* not of the form"):
            check()


def test_fewer_rows_than_ids_are_refused_and_padding_rows_are_not() -> None:
    check_rows(ids=100, rows=100)
    check_rows(ids=100, rows=128)
    with pytest.raises(UserError, match="tokenizer and embedding do not match"):
        check_rows(ids=100, rows=99)


_ids = st.integers(0, 30)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "eos_token_id": st.one_of(_ids, st.lists(_ids)),
            "suppress_tokens": st.lists(_ids),
            "bad_words_ids": st.lists(st.lists(_ids, min_size=1)),
            "sequence_bias": st.lists(st.tuples(st.lists(_ids, min_size=1), st.floats(-1, 1))),
            "decoder": st.fixed_dictionaries({"pad_token_id": _ids, "vocab_size": _ids}),
        },
    ),
    st.sets(_ids),
)
def test_keeping_what_is_referenced_is_enough_and_there_and_back_is_the_same(
    config: dict[str, Any], more: set[int]
) -> None:
    kept = sorted(more | referenced_ids(config, None, rows=31).keys())
    mapping = {old: new for new, old in enumerate(kept)}
    there = remap_ids(config, mapping, "config.json")
    back = remap_ids(there, dict(enumerate(kept)), "config.json")
    again = remap_ids(config, {token: token for token in kept}, "config.json")
    assert back == again
    assert there.keys() == config.keys()
