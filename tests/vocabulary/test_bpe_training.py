import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.tokenizers import encoding
from regrow.tokenizers.added_merges import add_merges
from regrow.tokenizers.alphabet import SPACE
from regrow.tokenizers.tokenizer_json import token_ids
from regrow.vocabulary.bpe_training import Pair, Words, learn_merges, words_of
from tests.tokenizers.bpe_cases import Json, encode, load, tokenizer_json, trained_json, wild_json
from tests.tokenizers.sentencepiece_bpe_cases import bpe_json, wild_scores

WORDS = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=2, max_size=6).map(tuple),
    st.integers(1, 9),
    max_size=6,
)


def plain(words: dict[tuple[str, ...], int], known: set[str], most: int, least: int) -> list[Pair]:
    """The same, counted anew for each merge."""
    texts = [(list(tokens), times) for tokens, times in words.items()]
    merges: list[Pair] = []
    while len(merges) < most:
        counts: Counter[Pair] = Counter()
        for tokens, times in texts:
            for pair in pairwise(tokens):
                if "".join(pair) not in known:
                    counts[pair] += times
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < least:
            break
        merges.append(best)
        known.add("".join(best))
        for tokens, _ in texts:
            at = 0
            while at + 1 < len(tokens):
                if (tokens[at], tokens[at + 1]) == best:
                    tokens[at : at + 2] = ["".join(best)]
                at += 1
    return merges


@settings(max_examples=200, deadline=None)
@given(words=WORDS, most=st.integers(0, 8), least=st.integers(1, 12))
def test_merges_are_those_of_counting_anew(
    words: dict[tuple[str, ...], int], most: int, least: int
) -> None:
    known = {"a", "b", "ab", "c"}
    assert learn_merges(words, known, most, least) == plain(words, set(known), most, least)


def words_in(contents: Json, documents: Sequence[str]) -> Words:
    return words_of(load(contents), contents, documents)


def test_words_end_at_what_is_no_text() -> None:
    scores = {token: -float(n) for n, token in enumerate([*f"abc{SPACE}", f"{SPACE}a", "ab"])}
    contents = bpe_json(scores, outside=["[img]"])
    assert words_in(contents, ["ab ca", "bé bc", "ca[img]bc"]) == {
        (f"{SPACE}a", "b"): 1, (SPACE, "c", "a"): 2, (SPACE, "b"): 1, (SPACE, "b", "c"): 2,
    }  # fmt: skip
    contents = tokenizer_json([("a", "b")], outside=["[img]"])
    assert words_in(contents, ["ab ca [img]bc"]) == {("Ġ", "c", "a"): 1, ("b", "c"): 1}


def test_numbers_and_lines_are_not_merged_where_the_tokenizer_keeps_them_apart() -> None:
    """As in Llama 2, which has a token for each digit and no pre-tokenizer."""
    letters = [*f"abc12\n{SPACE}", f"{SPACE}a", "ab"]
    scores = {token: -float(n) for n, token in enumerate(letters)}
    assert words_in(bpe_json(scores), ["ca 12\nbc 2cb"]) == {
        (SPACE, "c", "a"): 1, ("b", "c"): 1, ("c", "b"): 1,
    }  # fmt: skip
    numbers = bpe_json(scores | {"12": -20.0})
    assert words_in(numbers, ["ca 12\nbc 21"]) == {
        (SPACE, "c", "a"): 1, (SPACE, "12"): 1, ("b", "c"): 1, (SPACE, "2", "1"): 1,
    }  # fmt: skip


def test_where_there_are_too_many_words_the_rare_ones_count_as_before_on_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No word comes twice, as in a language without spaces, but for one."""
    contents = tokenizer_json([])
    text = [f"{number:05x}".translate(str.maketrans("0123456789", "ghijklmnop"))
            for number in range(1 << 13)]  # fmt: skip
    documents = [" ".join(["ca ca", *text[at : at + 64]]) for at in range(0, len(text), 64)]
    whole = Counter(words_of(load(contents), contents, documents))
    monkeypatch.setattr(encoding, "_CHUNK_CHARACTERS", 1 << 12)  # read before words are dropped
    thinned = Counter(words_of(load(contents), contents, documents, most=len(text)))
    assert len(thinned) < len(whole) / 2
    frequent = ("Ġ", "c", "a")
    assert thinned[frequent] == whole[frequent] == 128
    first, last = (
        sum(times for word, times in thinned.items() if word[1:3] == tuple(start))
        for start in (text[0][:2], text[-1][:2])
    )
    assert abs(first - last) < 0.2 * (first + last)
    assert abs(thinned.total() / whole.total() - 1) < 0.1


TEXTS = st.lists(
    st.lists(st.sampled_from(["abc", "cab", "bé", "aabb", "c", "日"]), max_size=5).map(" ".join),
    max_size=6,
)
MADE = st.one_of(wild_json(), trained_json(), wild_scores().map(bpe_json))


@settings(max_examples=150, deadline=None)
@given(made=MADE, documents=TEXTS, other=st.text("abcé 日", max_size=20), most=st.integers(1, 8))
def test_text_is_merged_on_from_its_old_tokens(
    made: Json, documents: list[str], other: str, most: int
) -> None:
    words = words_in(made, documents)
    merges = learn_merges(words, token_ids(made), most, 1)
    new, mapping = add_merges(made, merges)
    before, after = load(made), load(new)
    names = {token: content for content, token in token_ids(new).items()}
    products = {"".join(pair) for pair in merges}
    for text in [*documents, other]:
        ids = encode(after, text)
        old = [mapping[token] for token in encode(before, text)]
        spelled = "".join(names[token] for token in ids)
        assert spelled == "".join(names[token] for token in old)
        assert after.decode(ids, skip_special_tokens=False) == before.decode(
            encode(before, text), skip_special_tokens=False
        )
        # What is left between new tokens is what was there.
        parts = {tuple(run) for new_one, run in groupby(map(names.get, ids), products.__contains__)
                 if not new_one}  # fmt: skip
        joined = "\0".join(names[token] for token in old)
        assert all("\0".join(map(str, part)) in joined for part in parts)
        if not products.intersection(names[token] for token in ids):
            assert ids == old
    # Each new token comes to be where it was learned, and on its own.
    used = {names[token] for text in documents for token in encode(after, text)}
    assert bool(merges) <= bool(products & used)
    model = after.model
    for left, right in merges:
        assert [token.value for token in model.tokenize(left + right)] == [left + right]
    assert json.loads(after.to_str())["model"]["vocab"] == new["model"]["vocab"]
