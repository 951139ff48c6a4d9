"""The guarantees of a pruned Unigram tokenizer, checked with the tokenizers library."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.tokenizers.alphabet import BYTE_TOKENS, SPACE
from regrow.tokenizers.families import (
    Constraints,
    VocabularyChoice,
    family_of,
    prune_tokenizer_json,
)
from tests.tokenizers.bpe_cases import Json, decode, encode, load, total, zeros
from tests.tokenizers.checks import Pruned, least_size, random_counts, select
from tests.tokenizers.unigram_cases import texts, unigram_json, wild_unigram

Ids = NDArray[np.int64]


@st.composite
def choices(draw: st.DrawFn) -> tuple[Json, VocabularyChoice]:
    contents = draw(wild_unigram())
    size = draw(st.integers(least_size(contents), total(contents)))
    counts = random_counts(contents, draw(st.integers(0, 99)))
    return contents, select(contents, counts, size)


@settings(max_examples=120, deadline=None)
@given(choices(), st.lists(texts, min_size=1, max_size=6), st.data())
def test_kept_text_encodes_the_same_and_all_text_decodes_the_same(
    case: tuple[Json, VocabularyChoice], drawn: list[str], data: st.DataObject
) -> None:
    contents, choice = case
    pruned = Pruned(contents, prune_tokenizer_json(contents, choice.kept), choice.kept)
    pruned.check_dense()
    # Texts spelled with longer kept tokens, so that the first guarantee is put to use.
    names = pruned.before
    longest = sorted(choice.kept.tolist(), key=lambda i: -len(names.id_to_token(i) or ""))
    spelled = data.draw(st.lists(st.sampled_from(longest[:20]), max_size=8))
    for text in [*drawn, decode(names, spelled)]:
        pruned.check(text)


@settings(max_examples=120, deadline=None)
@given(wild_unigram(), st.data(), texts)
def test_text_of_kept_tokens_needs_no_characters(
    contents: Json, data: st.DataObject, text: str
) -> None:
    """The first guarantee holds for any kept set that has what must stay but for characters."""
    constraints = Constraints(characters=False)
    counts = random_counts(contents, data.draw(st.integers(0, 99)))
    size = data.draw(st.integers(least_size(contents), total(contents)))
    choice = select(contents, counts, size, constraints=constraints)
    before, after = load(contents), load(prune_tokenizer_json(contents, choice.kept))
    mapping, old = choice.mapping(), encode(before, text)
    if all(token in mapping for token in old):
        assert encode(after, text) == [mapping[token] for token in old]


def test_the_score_of_what_is_unknown_stays() -> None:
    """Without the piece of the least score, a path with an unknown character would win."""
    pieces = [("a", -1.0), ("aéb", -15.0), ("c", -15.0), ("d", -15.0), ("bcd", -1.0), ("x", -40.0)]
    contents = unigram_json([*pieces, (SPACE, -1.0)], byte_fallback=True)
    expected = [SPACE, "aéb", "c", "d"]
    assert load(contents).encode("aébcd").tokens == expected
    vocab = [content for content, _ in contents["model"]["vocab"]]
    choice = select(contents, zeros(contents), least_size(contents))
    reasons = dict(zip(choice.kept.tolist(), choice.reasons, strict=True))
    assert reasons[vocab.index("x")] == "score"
    with pytest.raises(UserError, match=r"'x' .* is missing, which must stay \(score\)"):
        prune_tokenizer_json(contents, np.delete(np.arange(len(vocab)), vocab.index("x")))
    contents["model"]["vocab"].remove(["x", -40.0])
    assert load(contents).encode("aébcd").tokens != expected


def test_the_score_of_what_is_unknown_stays_where_characters_may_go() -> None:
    """The piece of the least score is a character here."""
    pieces = [("a", -1.0), ("ab", -2.0), ("c", -25.0), ("d", -25.0), ("bcd", -1.0), ("b", -60.0)]
    contents = unigram_json([*pieces, (SPACE, -1.0)])
    vocab = [content for content, _ in contents["model"]["vocab"]]
    choice = select(contents, zeros(contents), 5, constraints=Constraints(characters=False))
    assert dict(zip(choice.kept.tolist(), choice.reasons, strict=True))[vocab.index("b")] == "score"


def test_which_token_comes_first() -> None:
    """By count, then by score; what no text becomes comes last."""
    pieces = [("a", -1.0), ("b", -1.0), ("ab", -2.5), ("ba", -1.5), ("aa", -1.9), ("bb", -1.2)]
    contents = unigram_json([*pieces, (SPACE, -9.0)])
    assert load(contents).encode("ab").tokens[1:] == ["a", "b"]
    vocab = [content for content, _ in contents["model"]["vocab"]]
    counts = zeros(contents)
    counts[vocab.index("aa")] = 1
    least = least_size(contents)
    for more, content in enumerate(("aa", "bb", "ba", "ab"), start=1):
        assert vocab.index(content) in select(contents, counts, least + more).kept
        assert vocab.index(content) not in select(contents, counts, least + more - 1).kept


def test_bytes_stand_in_for_characters_but_for_the_space() -> None:
    pieces = [(c, -1.0) for c in ("a", "b", SPACE, "日")]
    contents = unigram_json(pieces, byte_fallback=True)
    assert least_size(contents) == 3 + 256 + 2
    choice = select(contents, zeros(contents), 3 + 256 + 2)
    pruned = prune_tokenizer_json(contents, choice.kept)
    tokens = load(pruned).encode("a 日 b").tokens
    assert tokens.count(SPACE) == 3
    assert "".join(tokens).count("<0x") >= 4
    assert decode(load(pruned), encode(load(pruned), "a 日 b")) == "a 日 b"


def test_without_bytes_characters_stay_unless_told_otherwise() -> None:
    pieces = [(c, -1.0) for c in ("a", "b", SPACE, "日", "aé", "ab")]
    contents = unigram_json(pieces)
    vocab = [content for content, _ in contents["model"]["vocab"]]
    choice = select(contents, zeros(contents), least_size(contents))
    reasons = dict(zip(choice.kept.tolist(), choice.reasons, strict=True))
    assert {vocab[i] for i, r in reasons.items() if r == "character"} == {
        "a", "b", SPACE, "日", "aé",
    } - {vocab[i] for i, r in reasons.items() if r == "score"}  # fmt: skip
    few = select(contents, zeros(contents), 4, constraints=Constraints(characters=False))
    assert encode(load(prune_tokenizer_json(contents, few.kept)), "b") == [vocab.index("<unk>")]
    contents["model"]["unk_id"] = None  # the library would fail at an unknown character
    with pytest.raises(UserError, match=r"the least is 8, .* byte"):
        select(contents, zeros(contents), 4, constraints=Constraints(characters=False))


def test_sentinels_stay_in_order_also_where_they_are_only_pieces() -> None:
    pieces = [("a", -1.0), (SPACE, -2.0), ("ab", -1.0)]
    pieces += [(f"{SPACE}<extra_id_{i}>", 0.0) for i in reversed(range(5))]
    contents = unigram_json(pieces, byte_fallback=True)
    choice = select(contents, zeros(contents), least_size(contents))
    pruned = load(prune_tokenizer_json(contents, choice.kept))
    names = [pruned.id_to_token(i) for i in range(total(contents))]
    sentinels = [f"{SPACE}<extra_id_{i}>" for i in reversed(range(5))]
    assert [name for name in names if name in sentinels] == sentinels


def test_the_unknown_token_is_found_wherever_it_is() -> None:
    contents = unigram_json(
        [("b", -1.0), (SPACE, -2.0), ("a", -3.0), ("<unk>", 0.0)], before=("<pad>",)
    )
    vocab = [content for content, _ in contents["model"]["vocab"]]
    contents["model"]["unk_id"] = vocab.index("<unk>")
    choice = select(
        contents, zeros(contents), 4, constraints=Constraints(characters=False, drop=["b"])
    )
    pruned = load(prune_tokenizer_json(contents, choice.kept))
    assert pruned.token_to_id("<unk>") == vocab.index("<unk>") - 1
    assert encode(pruned, "é")[-1] == pruned.token_to_id("<unk>")


def test_all_tokens_kept_is_the_identity() -> None:
    contents = unigram_json([("a", -1.0), ("ab", -2.0)], outside=("<x>", "[img]"))
    before = copy.deepcopy(contents)
    choice = select(contents, zeros(contents), total(contents))
    assert prune_tokenizer_json(contents, choice.kept) == before == contents


def _with(vocab: Any = None, **changes: Any) -> Json:
    contents = unigram_json([("a", -1.0)])
    contents["model"].update(changes)
    if vocab is not None:
        contents["model"]["vocab"] = vocab
    return contents


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (_with([["a", -1.0], ["a", -2.0]]), "has 'a' twice"),
        (_with([["a", -1.0], "b"]), r"vocab\[1\] is 'b', not a piece"),
        (_with(unk_id=9), "unk_id is 9, but there are 4 pieces"),
        (_with(type="Bigram"), "is Bigram; what can be pruned is byte-level BPE, "),
    ],
)
def test_what_cannot_be_pruned_is_refused(contents: Json, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        select(contents, np.zeros(4, dtype=np.int64), 4)
    assert "\n" not in str(error.value)


def test_an_old_file_does_not_name_its_type() -> None:
    contents = unigram_json([("a", -1.0)])
    del contents["model"]["type"]
    assert family_of(contents) == "Unigram"


def test_bytes_that_are_not_all_there_do_not_count() -> None:
    """The library falls back to bytes only where it finds all that a character needs."""
    contents = unigram_json([(c, -1.0) for c in ("é", SPACE)], byte_fallback=True)
    contents["model"]["vocab"].remove([BYTE_TOKENS[0xC3], 0.0])
    choice = select(contents, zeros(contents), least_size(contents))
    pruned = Pruned(contents, prune_tokenizer_json(contents, choice.kept), choice.kept)
    assert pruned.check("é è")
