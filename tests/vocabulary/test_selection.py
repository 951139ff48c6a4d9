from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regrow.common.errors import UserError
from regrow.tokenizers.encoding import count_tokens, id_count, open_tokenizer
from regrow.vocabulary.selection import (
    DecidingCounts,
    choose,
    deciding_counts,
    load_candidates,
    retention_order,
    size_for_coverage,
)
from regrow.vocabulary.token_counts import Group, TokenCounts
from regrow.vocabulary.vocabulary_spec import VocabularySpec, read_tokens
from tests.tiny import add_tokenizer, sentences

IDS = 320


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tokenizer(tmp_path_factory.mktemp("model"))


def by_language(**languages: list[int]) -> TokenCounts:
    groups = tuple(Group(name, "Latin", 1, 100, 100) for name in languages)
    return TokenCounts("", groups, np.array(list(languages.values()), dtype=np.int64), ())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), highest=st.integers(0, 50), share=st.floats(0.01, 1))
@example(seed=205, highest=17, share=0.990234375)
@example(seed=205, highest=10, share=0.9921875)
def test_coverage_is_met_by_the_least_size(
    model: Path, seed: int, highest: int, share: float
) -> None:
    counts = np.random.default_rng(seed).integers(0, highest, IDS, dtype=np.int64, endpoint=True)
    needs = DecidingCounts(counts)
    candidates = load_candidates(model, {}, VocabularySpec(coverage=share, counts=Path("x")), needs)
    order = retention_order(candidates)
    assert sorted(order.tolist()) == list(range(IDS))
    choice = choose(candidates, VocabularySpec(coverage=share, counts=Path("x")), counts)
    total = max(1, counts.sum())
    assert counts[choice.kept].sum() / total >= share - 1e-9 or not counts.sum()
    size = len(choice.kept)
    if size > candidates.least:
        # Fewer tokens cover too little in one of two ways: the first in order, or those chosen, of
        # which the last may be another one, since a token comes with those that it is merged from.
        fewer = candidates.choose(size - 1)
        covered = min(counts[fewer.kept].sum(), counts[order[: size - 1]].sum())
        assert covered / total < share
    for at in range(candidates.least, IDS + 1, 7):
        prefix = set(order[:at].tolist())
        for token in prefix:
            assert prefix.issuperset(candidates.parts.get(token, ()))


def test_only_some_languages_decide_and_none_is_starved(model: Path) -> None:
    big, small = [0] * IDS, [0] * IDS
    big[259:290] = range(1031, 1000, -1)
    small[317:320] = [5, 7, 6]
    counts = by_language(en=big, fr=small)
    size = 256 + 3 + 20
    for spec, kept, gone in (
        (VocabularySpec(size=size, counts=Path("x")), range(259, 279), [317, 318, 319]),
        (VocabularySpec(size=size, counts=Path("x"), only=["fr"]), [317, 318, 319], []),
        (VocabularySpec(size=size, counts=Path("x"), minimum=1), [259, 318], [278]),
    ):
        needs = deciding_counts(counts, spec)
        chosen = choose(load_candidates(model, {}, spec, needs), spec, needs.counts)
        assert set(kept) <= set(chosen.kept.tolist()), spec
        assert set(gone).isdisjoint(chosen.kept.tolist()), spec
        assert ("language" in chosen.reasons) == bool(spec.minimum)
    with pytest.raises(UserError, match="only: 'de' was not counted; there are en, fr, Latin"):
        deciding_counts(counts, VocabularySpec(counts=Path("x"), only=["de"]))


def test_lists_are_kept_and_dropped(model: Path, tmp_path: Path) -> None:
    counts = count_tokens(model, sentences(50))
    vocab = open_tokenizer(model).get_vocab()
    words = sorted((t for t in vocab if len(t) > 3 and t[0] == "Ġ"), key=lambda t: -vocab[t])
    keep, drop = words[0], words[1]
    kept = tmp_path / "keep.txt"
    kept.write_text(f"{keep.replace('Ġ', ' ')}\r\n\n")
    spec = VocabularySpec(size=280, keep=kept, drop=[drop])
    chosen = choose(load_candidates(model, {}, spec, DecidingCounts(counts)), spec, counts)
    reasons = dict(zip(chosen.kept.tolist(), chosen.reasons, strict=True))
    assert reasons[vocab[keep]] == "list"
    assert vocab[drop] not in reasons
    most = np.zeros(id_count(open_tokenizer(model)), dtype=np.int64)
    most[vocab[drop]] = 9
    spec = VocabularySpec(coverage=0.5, counts=Path("x"), drop=[drop])
    with pytest.raises(UserError, match=r"coverage 0\.5: without the dropped tokens, 0 is the"):
        choose(load_candidates(model, {}, spec, DecidingCounts(most)), spec, most)


def test_a_token_that_does_not_exist_is_named_with_near_ones(model: Path) -> None:
    longest = max(open_tokenizer(model).get_vocab(), key=len)
    spec = VocabularySpec(size=280, keep=[f"{longest}s"])
    with pytest.raises(
        UserError, match=f"keep: .* no token '{longest}s'.*near.*'{longest}'"
    ) as told:
        load_candidates(model, {}, spec, DecidingCounts(np.zeros(IDS, dtype=np.int64)))
    assert "\n" not in str(told.value)


def test_a_list_keeps_the_spaces_of_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes("\ufeff the\r\n  \n\nx\u2028y".encode())
    assert read_tokens(path, "keep") == [" the", "  ", "x\u2028y"]
    with pytest.raises(UserError, match=r"keep: .*none: no such file"):
        read_tokens(tmp_path / "none", "keep")
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"drop: .*cannot be read as UTF-8"):
        read_tokens(path, "drop")


def test_shares_of_nothing_are_whole(model: Path) -> None:
    nothing = np.zeros(IDS, dtype=np.int64)
    spec = VocabularySpec(coverage=1, counts=Path("x"))
    candidates = load_candidates(model, {}, spec, DecidingCounts(nothing))
    assert (
        size_for_coverage(retention_order(candidates), nothing, 1.0, candidates) == candidates.least
    )
