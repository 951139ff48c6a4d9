"""The guarantees of the pruned tokenizer, checked with the tokenizers library."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.tokenizers.alphabet import BYTE_ALPHABET
from regrow.tokenizers.families import VocabularyChoice, family_of, prune_tokenizer_json
from regrow.tokenizers.merges import last_merge, last_merges, read_bpe
from tests.tokenizers.bpe_cases import (
    ALPHABET,
    added_token,
    built_alone,
    decode,
    load,
    texts,
    tokenizer_json,
    total,
    trained_json,
    wild_json,
    zeros,
)
from tests.tokenizers.checks import Pruned, least_size, random_counts, select

Json = dict[str, Any]
Counts = NDArray[np.int64]

cases = st.one_of(wild_json(), trained_json())


@st.composite
def choices(draw: st.DrawFn) -> tuple[Json, Counts, VocabularyChoice]:
    contents = draw(cases)
    size = draw(st.integers(least_size(contents), total(contents)))
    counts = random_counts(contents, draw(st.integers(0, 99)))
    return contents, counts, select(contents, counts, size)


@settings(max_examples=300, deadline=None)
@given(choices(), st.lists(texts, min_size=1, max_size=6), st.data())
def test_kept_text_encodes_the_same_and_all_text_decodes_the_same(
    case: tuple[Json, Counts, VocabularyChoice], drawn: list[str], data: st.DataObject
) -> None:
    contents, _, choice = case
    pruned = Pruned(contents, prune_tokenizer_json(contents, choice.kept), choice.kept)
    pruned.check_dense()
    # Texts spelled with longer kept tokens, so that the first guarantee is put to use.
    names = pruned.before
    longest = sorted(choice.kept.tolist(), key=lambda i: -len(names.id_to_token(i) or ""))
    spelled = data.draw(st.lists(st.sampled_from(longest[:20]), max_size=8))
    for text in [*drawn, decode(names, spelled)]:
        pruned.check(text)


@settings(max_examples=100, deadline=None)
@given(choices())
def test_every_kept_token_is_still_encoded_to_itself(
    case: tuple[Json, Counts, VocabularyChoice],
) -> None:
    contents, _, choice = case
    pruned = prune_tokenizer_json(contents, choice.kept)
    kept = pruned["model"]["vocab"].keys()
    assert built_alone(pruned) >= built_alone(contents) & kept


@settings(max_examples=100, deadline=None)
@given(choices(), texts)
def test_no_text_is_encoded_to_a_token_that_was_never_emitted(
    case: tuple[Json, Counts, VocabularyChoice], text: str
) -> None:
    contents, _, choice = case
    pruned = load(prune_tokenizer_json(contents, choice.kept))
    emitted = built_alone(contents) | {token["content"] for token in contents["added_tokens"]}
    if contents["model"]["ignore_merges"]:
        emitted |= contents["model"]["vocab"].keys()
    assert set(pruned.encode(text).tokens) <= emitted


@settings(max_examples=100, deadline=None)
@given(choices())
def test_each_kept_token_has_a_reason_and_a_new_id(
    case: tuple[Json, Counts, VocabularyChoice],
) -> None:
    _, _, choice = case
    assert len(choice.reasons) == len(choice.kept)
    assert choice.mapping() == {int(old): new for new, old in enumerate(choice.kept)}


@settings(max_examples=60, deadline=None)
@given(cases, st.data())
def test_the_size_is_exact_from_the_least_to_all(contents: Json, data: st.DataObject) -> None:
    least, most = least_size(contents), total(contents)
    counts = random_counts(contents, data.draw(st.integers(0, 99)))
    for size in range(least, most + 1):
        kept = select(contents, counts, size).kept
        assert len(kept) == size
        assert np.all(np.diff(kept) > 0)
    with pytest.raises(UserError, match="is above the"):
        select(contents, counts, most + 1)
    with pytest.raises(UserError, match=f"the least is {least}, since these must stay: .*byte"):
        select(contents, counts, least - 1)


@settings(max_examples=60, deadline=None)
@given(cases, st.data())
def test_choice_is_greedy_by_count_then_rank(contents: Json, data: st.DataObject) -> None:
    """A token left out would not have fitted when its turn came: a second, slower way to choose."""
    least = least_size(contents)
    size = data.draw(st.integers(least, total(contents)))
    counts = random_counts(contents, data.draw(st.integers(0, 99)))
    bpe = read_bpe(contents)
    alone = built_alone(contents)
    rank = {}
    for token in alone:
        if (pair := last_merge(bpe, token)) is not None:
            rank[token] = bpe.rank[pair]

    def path(token: str) -> set[str]:
        pair = last_merge(bpe, token) if token in alone else None
        return {token} if pair is None else {token} | path(pair[0]) | path(pair[1])

    names = load(contents)
    kept = {names.id_to_token(i) for i in select(contents, counts, least).kept.tolist()}
    rest = [token for token in bpe.vocab if token not in kept]
    emitted = set(bpe.vocab) if bpe.ignore_merges else alone

    def turn(token: str) -> tuple[bool, int, float, int]:
        count = int(counts[bpe.vocab[token]])
        return token not in emitted, -count, rank.get(token, np.inf), bpe.vocab[token]

    for token in sorted(rest, key=turn):
        if len(kept | path(token)) <= size:
            kept |= path(token)
    chosen = select(contents, counts, size).kept.tolist()
    assert {names.id_to_token(i) for i in chosen} == kept


@settings(max_examples=100, deadline=None)
@given(wild_json())
def test_path_agrees_with_the_library(contents: Json) -> None:
    bpe = read_bpe(contents)
    parts = last_merges(bpe)
    built = {content for content, token in bpe.vocab.items() if token in parts}
    assert built == {token for token in built_alone(contents) if len(token) > 1}


@settings(max_examples=60, deadline=None)
@given(wild_json())
def test_never_more_ancestors_than_all_parts_of_any_merge(contents: Json) -> None:
    bpe = read_bpe(contents)
    naive: dict[str, set[str]] = {token: set() for token in bpe.vocab}
    for _ in bpe.merges:
        for left, right in bpe.merges:
            naive[left + right] |= {left, right} | naive[left] | naive[right]
    least = set(select(contents, zeros(contents), least_size(contents)).kept.tolist())
    for token in built_alone(contents).difference(ALPHABET):
        identity = bpe.vocab[token]
        with pytest.raises(UserError, match="the least is") as error:
            select(contents, zeros(contents), 0, {identity: "config.json: eos_token_id"})
        needed = int(str(error.value).split("the least is ")[1].split(",")[0])
        everything = least | {identity} | {bpe.vocab[part] for part in naive[token]}
        assert len(least) <= needed <= len(everything)


def test_the_path_taken_is_kept_and_not_another() -> None:
    """Two merges give "abc"; BPE takes (a, bc), since bc comes first."""
    contents = tokenizer_json([("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")])
    counts = zeros(contents)
    vocab = contents["model"]["vocab"]
    counts[vocab["abc"]] = 5
    choice = select(contents, counts, least_size(contents) + 2)
    assert [t for t, i in vocab.items() if i in choice.kept and len(t) in (2, 3)] == [
        "<s>",
        "bc",
        "abc",
    ]
    reasons = dict(zip(choice.kept.tolist(), choice.reasons, strict=True))
    assert reasons[vocab["abc"]] == "count"
    assert reasons[vocab["bc"]] == "merge ancestor"
    assert reasons[vocab["a"]] == "byte"
    assert reasons[vocab["<s>"]] == "special"


def test_the_pair_listed_twice_counts_by_its_last_place() -> None:
    twice = [("a", "b"), ("b", "c"), ("a", "b"), ("a", "bc")]
    contents = tokenizer_json(twice)
    assert load(contents).encode("abc").tokens == ["abc"]
    assert last_merge(read_bpe(contents), "abc") == ("a", "bc")
    once = tokenizer_json([("a", "b"), ("b", "c"), ("a", "bc")])
    assert last_merge(read_bpe(once), "abc") is None


def test_what_does_not_fit_is_passed_over() -> None:
    contents = tokenizer_json([("a", "b"), ("ab", "c"), ("b", "b")])
    counts = zeros(contents)
    vocab = contents["model"]["vocab"]
    counts[vocab["abc"]], counts[vocab["bb"]] = 9, 1
    least = least_size(contents)
    assert vocab["bb"] in select(contents, counts, least + 1).kept
    two = select(contents, counts, least + 2).kept
    assert vocab["abc"] in two
    assert vocab["ab"] in two


def test_an_ancestor_whose_own_turn_came_is_kept_for_its_count() -> None:
    contents = tokenizer_json([("a", "b"), ("ab", "c"), ("b", "b")])
    counts = zeros(contents)
    vocab = contents["model"]["vocab"]
    counts[vocab["abc"]], counts[vocab["ab"]] = 9, 5
    for more, reason in ((2, "merge ancestor"), (3, "count")):
        choice = select(contents, counts, least_size(contents) + more)
        reasons = dict(zip(choice.kept.tolist(), choice.reasons, strict=True))
        assert reasons[vocab["ab"]] == reason


def test_equal_counts_are_broken_by_rank_not_by_id() -> None:
    merges = [("a", "b"), ("b", "c"), ("c", "d")]
    ids = [*range(257), 259, 258, 257]
    contents = tokenizer_json(merges, order=ids)
    choice = select(contents, zeros(contents), 258)
    assert 259 in choice.kept
    assert load(contents).id_to_token(259) == "ab"


def test_an_unbuildable_token_stays_without_path_under_ignore_merges() -> None:
    """BPE takes (b, c) first and never gets to "abc", but a piece "abc" is taken whole."""
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    contents = tokenizer_json(merges, ignore_merges=True)
    assert load(contents).encode("abc xabc").tokens == ["abc", "Ġ", "x", "a", "bc"]
    counts = zeros(contents)
    vocab = contents["model"]["vocab"]
    counts[vocab["abc"]] = 1
    choice = select(contents, counts, least_size(contents) + 1)
    assert vocab["abc"] in choice.kept
    pruned = load(prune_tokenizer_json(contents, choice.kept))
    assert pruned.encode("abc xabc").tokens == ["abc", "Ġ", "x", "a", "b", "c"]


def test_a_merge_off_the_paths_stays_where_its_product_was_emitted() -> None:
    """Without "bc" the merge (ab, c) can fire: only ignore_merges ever trained its product."""
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    for ignore_merges, expected in ((True, ["x", "abc"]), (False, ["x", "ab", "c"])):
        contents = tokenizer_json(merges, ignore_merges=ignore_merges)
        kept = np.array([i for t, i in contents["model"]["vocab"].items() if t != "bc"])
        pruned = prune_tokenizer_json(contents, kept)
        assert load(pruned).encode("xabc").tokens == expected


def test_a_token_with_an_unspelled_byte_is_kept_under_ignore_merges() -> None:
    contents = tokenizer_json([("a", "b")], alphabet=[b for b in ALPHABET if b != "z"])
    model = contents["model"]
    model["vocab"]["az"] = len(model["vocab"])
    least = least_size(contents)
    model["ignore_merges"] = True
    choice = select(contents, zeros(contents), least + 1)
    assert model["vocab"]["az"] in choice.kept
    assert least_size(contents) == least + 1


def test_all_tokens_kept_is_the_identity() -> None:
    merges = [("a", "b"), ("ab", "c"), ("Ġ", "a")]
    contents = tokenizer_json(merges, outside=["<pad>", "[img]"])
    before = copy.deepcopy(contents)
    choice = select(contents, zeros(contents), total(contents))
    assert prune_tokenizer_json(contents, choice.kept) == before == contents


def test_holes_are_closed() -> None:
    contents = tokenizer_json([("a", "b")], order=[*range(0, 514, 2), 1001])
    choice = select(contents, zeros(contents), 258)
    pruned = prune_tokenizer_json(contents, choice.kept)
    assert sorted(pruned["model"]["vocab"].values()) == list(range(258))
    assert Pruned(contents, pruned, choice.kept).check("abba <s>é")


def test_ids_of_post_processor_and_padding_follow() -> None:
    contents = tokenizer_json(
        [("a", "b"), ("b", "c")], before=(), outside=["<s>", "</s>", "<pad>"], order=None
    )
    first = contents["added_tokens"][0]["id"]
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [first], "tokens": ["<s>"]}},
    }
    roberta = {
        "type": "RobertaProcessing",
        "sep": ["</s>", first + 1],
        "cls": ["<s>", first],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    contents["padding"] = {
        "strategy": {"Fixed": 6},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": first + 2,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    for processor, expected in (
        (template, ["<s>", "a"]),
        (roberta, ["<s>", "a", "</s>"]),
        ({"type": "Sequence", "processors": [byte_level, template]}, ["<s>", "a"]),
    ):
        contents["post_processor"] = processor
        choice = select(contents, zeros(contents), 256 + 3)
        pruned = load(prune_tokenizer_json(contents, choice.kept))
        encoding = pruned.encode("a")
        assert encoding.tokens == expected + ["<pad>"] * (6 - len(expected))
        assert [pruned.id_to_token(i) for i in encoding.ids] == encoding.tokens


def test_ids_named_elsewhere_are_kept_with_their_path() -> None:
    contents = tokenizer_json([("a", "b"), ("ab", "c"), ("b", "b")])
    vocab = contents["model"]["vocab"]
    choice = select(contents, zeros(contents), 257 + 2, {vocab["abc"]: "config.json: eos_token_id"})
    reasons = dict(zip(choice.kept.tolist(), choice.reasons, strict=True))
    assert reasons[vocab["abc"]] == "config"
    assert reasons[vocab["ab"]] == "merge ancestor"
    with pytest.raises(UserError, match=r"config\.json: pad_token_id is 9999"):
        select(contents, zeros(contents), 259, {9999: "config.json: pad_token_id"})


def test_kept_sets_that_break_the_guarantees_are_refused() -> None:
    contents = tokenizer_json([("a", "b"), ("ab", "c")])
    vocab = contents["model"]["vocab"]
    everything = np.arange(len(vocab))
    for missing, said in (("ab", "cannot be built"), ("a", "byte"), ("<s>", "special")):
        with pytest.raises(UserError, match=f"'{missing}'.*{said}"):
            prune_tokenizer_json(contents, np.delete(everything, vocab[missing]))
    with pytest.raises(UserError, match="no token of id 259"):
        prune_tokenizer_json(contents, np.arange(len(vocab) + 1))
    with pytest.raises(UserError, match="not ascending"):
        prune_tokenizer_json(contents, everything[::-1])
    with pytest.raises(UserError, match="count with the tokenizer"):
        select(contents, np.zeros(5, dtype=np.int64), 258)


def _with_model(**changes: Any) -> Json:
    contents: Json = tokenizer_json([("a", "b")])
    contents["model"].update(changes)
    return contents


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (_with_model(type="WordLevel"), "the tokenizer is WordLevel; .* byte-level BPE"),
        ({"model": {}}, "model.vocab is missing"),
        (_with_model(dropout=0.1), "model.dropout is 0.1"),
        (_with_model(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (_with_model(continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (_with_model(merges=[["a", "b"], ["a", "c"]]), r"merges\[1\] needs 'ac'"),
        (_with_model(merges=["a b", "a b c"]), r"merges\[1\] is 'a b c'"),
        (_with_model(vocab={"a": 0, "b": 0, "ab": 1}), "'a' and 'b' the same id"),
        ({**_with_model(), "added_tokens": [added_token("<x>", 7)]}, "'<x>' the id 7"),
        ({**_with_model(), "added_tokens": [added_token("a", 0)]}, "'a' the id 0"),
        ({**_with_model(), "added_tokens": [added_token("", 258)]}, "twice or empty"),
        ({**_with_model(), "added_tokens": [added_token("<x>", 258)] * 2}, "twice or empty"),
        ({**_with_model(), "post_processor": {"type": "Other"}}, "of type Other"),
        ({**_with_model(), "padding": {"pad_id": 999}}, "padding.pad_id 999"),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_name(contents: Json, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        select(contents, np.zeros(258, dtype=np.int64), 257)
    assert "\n" not in str(error.value)


def test_holes_with_tokens_added_outside_are_refused() -> None:
    contents = tokenizer_json([("a", "b")], order=[*range(257), 259], outside=["<x>"])
    with pytest.raises(UserError, match="close the holes"):
        select(contents, np.zeros(260, dtype=np.int64), 258)


def test_an_unknown_token_that_merges_is_refused() -> None:
    merges = [("<", "u"), ("<u", "a")]
    alphabet = [b for b in ALPHABET if b != "z"]
    contents = tokenizer_json(merges, alphabet=alphabet, unk="<u")
    with pytest.raises(UserError, match="'<u' is part of a merge"):
        select(contents, zeros(contents), 258)


def test_a_byte_without_a_token_and_byte_fallback_is_refused() -> None:
    contents = tokenizer_json([("a", "b")], alphabet=[b for b in ALPHABET if b != "z"])
    contents["model"]["byte_fallback"] = True
    with pytest.raises(UserError, match="byte_fallback, but 'z'"):
        select(contents, zeros(contents), 258)


def test_the_kind_is_found_inside_sequences_and_without_a_type() -> None:
    contents = tokenizer_json([("a", "b")])
    digits = {"type": "Digits", "individual_digits": True}
    parts = [digits, contents["pre_tokenizer"]]
    contents["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    del contents["model"]["type"]
    assert family_of(contents) == "byte-level BPE"
    contents["pre_tokenizer"], contents["normalizer"] = digits, {"type": "ByteLevel"}
    assert family_of(contents) == "byte-level BPE"


def test_the_byte_alphabet_is_the_library_s() -> None:
    assert set(ALPHABET) == BYTE_ALPHABET


def test_the_guarantee_check_can_fail() -> None:
    """The check of both guarantees sees a lost path, a reordered merge and a lost byte."""
    contents = tokenizer_json([("b", "c"), ("a", "b"), ("a", "bc")])
    everything = np.arange(260)
    assert Pruned(contents, contents, everything).check("abc")
    vocab = contents["model"]["vocab"]

    without_path = copy.deepcopy(contents)
    without_path["model"]["merges"] = [["a", "b"], ["a", "bc"]]
    reordered = copy.deepcopy(contents)
    reordered["model"]["merges"] = [["a", "b"], ["b", "c"], ["a", "bc"]]
    without_byte = json.loads(json.dumps(contents))
    del without_byte["model"]["vocab"]["z"]
    for broken, kept, text in (
        (without_path, everything, "abc"),
        (reordered, everything, "abc"),
        (without_byte, np.delete(everything, vocab["z"]), "z"),
    ):
        with pytest.raises(AssertionError):
            Pruned(contents, broken, kept).check(text)
