"""A smaller vocabulary spells the tokens that it lost, and with them any text."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.tokenizers.alphabet import BYTE_TOKENS
from regrow.tokenizers.families import VocabularyChoice, prune_tokenizer_json
from regrow.tokenizers.spellings import spellings
from tests.tokenizers.bpe_cases import Json, decode, load, total, trained_json, wild_json
from tests.tokenizers.checks import least_size, random_counts, select
from tests.tokenizers.test_wordpiece import wordpiece_json
from tests.tokenizers.unigram_cases import unigram_json, wild_unigram


def spelled(contents: Json, kept: Any) -> tuple[Any, Any, dict[int, tuple[int, ...]]]:
    before, after = load(contents), load(prune_tokenizer_json(contents, kept))
    return before, after, spellings(before, after, kept.tolist())


@settings(max_examples=120, deadline=None)
@given(st.one_of(wild_json(), trained_json(), wild_unigram()), st.data())
def test_text_is_the_same_when_its_lost_tokens_are_spelled(
    contents: Json, data: st.DataObject
) -> None:
    size = data.draw(st.integers(least_size(contents), total(contents)))
    choice: VocabularyChoice = select(contents, random_counts(contents, size % 7), size)
    before, after, pieces = spelled(contents, choice.kept)
    new = {old: new for new, old in enumerate(choice.kept.tolist())}
    assert not new.keys() & pieces.keys()
    assert [*pieces] == sorted(pieces)
    assert len({*pieces.values()}) == len(pieces)
    assert all(pieces.values())
    # Bytes beside those of a spelled character would be decoded with these.
    bytes_alone = {before.token_to_id(name) for name in BYTE_TOKENS}
    drawn = st.lists(st.sampled_from([*new.keys() - bytes_alone, *pieces]), max_size=8)
    # A Metaspace decoder drops all spaces of the first token, so the first is a special token.
    ids = [min(new), *data.draw(drawn)]
    spelling = [each for token in ids for each in pieces.get(token, (new.get(token, -1),))]
    assert decode(after, spelling) == decode(before, ids)


def test_what_cannot_be_spelled_is_left_out() -> None:
    pieces = [("▁", -2.0), ("a", -2.0), ("ab", -1.0), ("aa", -1.0), ("b", -2.0)]
    contents = unigram_json(pieces)
    names = load(contents)
    lost = {names.token_to_id(name) for name in ("ab", "aa", "b")}
    kept = np.array(sorted(set(range(total(contents))) - lost))
    _, after, found = spelled(contents, kept)
    assert found == {names.token_to_id("aa"): (after.token_to_id("a"),) * 2}


def test_words_of_wordpiece_are_not_spelled() -> None:
    """It marks the tokens inside a word, so the pieces of a token depend on where it is."""
    contents = wordpiece_json(["a", "b", "##a", "##b", "ab", "##ab"])
    lost = {load(contents).token_to_id(name) for name in ("ab", "##ab")}
    kept = np.array(sorted(set(range(total(contents))) - lost))
    assert spelled(contents, kept)[2] == {}
