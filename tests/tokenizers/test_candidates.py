"""What a user asks of a choice: lists, minima, characters; the same for every family."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.tokenizers.alphabet import SPACE
from regrow.tokenizers.candidates import VocabularyChoice
from regrow.tokenizers.families import Constraints, candidates_of, prune_tokenizer_json
from tests.tokenizers.bpe_cases import Json, load, tokenizer_json, total, wild_json, zeros
from tests.tokenizers.checks import random_counts, select
from tests.tokenizers.sentencepiece_bpe_cases import bpe_json
from tests.tokenizers.test_wordpiece import wild_wordpiece, wordpiece_json
from tests.tokenizers.unigram_cases import unigram_json, wild_unigram

MERGES = [("a", "b"), ("ab", "c"), ("Ġ", "abc"), ("d", "e"), ("d", "f")]
CONTENTS = tokenizer_json(MERGES)
LEAST = 257


def reasons(choice: VocabularyChoice) -> dict[str, str]:
    names = load(CONTENTS)
    kept = choice.kept.tolist()
    found = {names.id_to_token(i) or "": r for i, r in zip(kept, choice.reasons, strict=True)}
    return {token: reason for token, reason in found.items() if len(token) > 1 and token != "<s>"}


SENTINELS = [f"<extra_id_{number}>" for number in (2, 0, 1)]
SPELLED = sorted(set("".join(SENTINELS)))


@pytest.mark.parametrize(
    "contents",
    [
        tokenizer_json(MERGES, before=("<s>", *SENTINELS)),
        bpe_json({content: -float(n) for n, content in enumerate(["a", SPACE, *SENTINELS])}),
        unigram_json([(content, -1.0) for content in ("a", SPACE, *SENTINELS)], byte_fallback=True),
        wordpiece_json(["a", *SENTINELS, *SPELLED, *(f"##{c}" for c in SPELLED)]),
    ],
    ids=["byte-level BPE", "SentencePiece BPE", "Unigram", "WordPiece"],
)
def test_sentinels_stay_in_order_where_they_are_but_tokens(contents: Json) -> None:
    plain = [token for token in contents["added_tokens"] if token["content"] not in SENTINELS]
    contents = {**contents, "added_tokens": plain}
    candidates = candidates_of(contents, zeros(contents))
    choice = candidates.choose(candidates.least)
    vocabulary = load(prune_tokenizer_json(contents, choice.kept)).get_vocab()
    assert vocabulary.keys() >= set(SENTINELS)
    ids = [vocabulary[name] for name in SENTINELS]
    assert ids == sorted(ids)
    assert [choice.reasons[token] for token in ids] == ["special"] * 3


def test_listed_tokens_stay_with_their_path() -> None:
    """Written as the vocabulary does, or as text."""
    for listed in ("Ġabc", " abc"):
        choice = select(
            CONTENTS, zeros(CONTENTS), LEAST + 3, constraints=Constraints(keep=[listed])
        )
        assert reasons(choice) == {"Ġabc": "list", "abc": "merge ancestor", "ab": "merge ancestor"}
    with pytest.raises(UserError, match=r"the least is 260, .* 1 list, 2 merge ancestor"):
        select(CONTENTS, zeros(CONTENTS), LEAST + 2, constraints=Constraints(keep=["Ġabc"]))


def test_dropped_tokens_go_with_what_is_built_from_them() -> None:
    counts = zeros(CONTENTS)
    counts[[CONTENTS["model"]["vocab"][t] for t in ("Ġabc", "abc", "ab")]] = 9
    found = candidates_of(CONTENTS, counts, constraints=Constraints(drop=["ab"]))
    assert found.most == LEAST + 2
    assert reasons(found.choose(found.most)) == {"de": "count", "df": "count"}
    with pytest.raises(UserError, match="above the 259 tokens"):
        found.choose(LEAST + 3)


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        (
            Constraints(keep=["abd"]),
            r"keep: the vocabulary has no token 'abd'; near it are '.*ab.*'",
        ),
        (Constraints(drop=[" ab"]), "drop: the vocabulary has no token ' ab'"),
        (Constraints(keep=["abc"], drop=["abc"]), r"drop: 'abc' must stay \(list\)"),
        (Constraints(keep=["abc"], drop=["ab"]), r"drop: 'ab' must stay \(merge ancestor\)"),
        (Constraints(drop=["<s>"]), r"drop: '<s>' must stay \(special\)"),
        (Constraints(drop=["a"]), r"drop: 'a' must stay \(byte\)"),
        (
            Constraints(minimum=1, languages={"Thai": np.zeros(3, dtype=np.int64)}),
            "token counts of Thai: 3 entries",
        ),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(constraints: Constraints, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        select(CONTENTS, zeros(CONTENTS), LEAST + 4, constraints=constraints)
    assert "\n" not in str(error.value)


def test_a_small_language_is_not_starved() -> None:
    vocab = CONTENTS["model"]["vocab"]
    big, small = zeros(CONTENTS), zeros(CONTENTS)
    big[[vocab["de"], vocab["df"]]] = 1000
    small[[vocab["abc"], vocab["ab"], vocab["a"]]] = (5, 3, 9)
    counts = big + small
    languages = {"big": big, "small": small}
    assert reasons(select(CONTENTS, counts, LEAST + 2)) == {"de": "count", "df": "count"}
    least = Constraints(minimum=2, languages=languages)
    choice = select(CONTENTS, counts, LEAST + 4, constraints=least)
    # "a" is a byte, and the language's most frequent token.
    assert reasons(choice) == {
        "abc": "language", "ab": "merge ancestor", "de": "language", "df": "language",
    }  # fmt: skip
    one = Constraints(minimum=3, languages={"small": small})
    assert reasons(select(CONTENTS, counts, LEAST + 2, constraints=one)) == {
        "abc": "language", "ab": "language",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"the least is 261, .* 3 language, 1 merge ancestor"):
        select(CONTENTS, counts, LEAST + 3, constraints=least)


@settings(max_examples=50, deadline=None)
@given(st.one_of(wild_json(), wild_unigram(), wild_wordpiece()), st.data())
def test_every_wish_is_granted_at_every_size(contents: Json, data: st.DataObject) -> None:
    """For any family: listed tokens and minima are in, dropped ones out, and it can be cut."""
    counts = random_counts(contents, data.draw(st.integers(0, 99)))
    names = {i: content for content, i in load(contents).get_vocab().items()}
    free = candidates_of(contents, counts).order
    listed = data.draw(st.lists(st.sampled_from(free), max_size=3)) if free else []
    minimum = data.draw(st.integers(0, 4))
    own = random_counts(contents, data.draw(st.integers(0, 99)))
    constraints = Constraints(
        keep=[names[i] for i in listed], minimum=minimum, languages={"own": own}
    )
    wanted = candidates_of(contents, counts, constraints=constraints)
    left = [i for i in wanted.order if i not in wanted.required]
    dropped = data.draw(st.lists(st.sampled_from(left), max_size=3)) if left else []
    constraints = Constraints(
        keep=constraints.keep,
        drop=[names[i] for i in dropped],
        minimum=minimum,
        languages={"own": own},
    )
    found = candidates_of(contents, counts, constraints=constraints)
    for size in range(found.least, found.most + 1):
        choice = found.choose(size)
        kept = set(choice.kept.tolist())
        assert len(kept) == size
        assert kept.issuperset(listed)
        assert kept.isdisjoint(dropped)
        able = set(found.required) | set(found.order)
        assert sum(own[i] > 0 for i in kept) >= min(minimum, sum(own[i] > 0 for i in able))
        prune_tokenizer_json(contents, choice.kept)
    assert found.most <= total(contents) - len(set(dropped))
