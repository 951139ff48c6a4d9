"""Train further merges of BPE on a text, starting from the tokens of a tokenizer.

BPE merges the most frequent pair of symbols again and again (Gage 1994; within words: Sennrich et
al. 2016, arXiv 1508.07909, section 3.2). Here the first symbols are the tokens of a tokenizer. So
text is encoded as before, and then the new merges apply. No old merge follows a new one, since no
old merge has a new token in it.

A part of a text that begins and ends at borders of tokens is encoded as when it is alone (see
:mod:`regrow.tokenizers.bpe`). So a new token is merged from the same parts everywhere, also when it
is alone. ``ignore_merges`` relies on that.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regrow.tokenizers.alphabet import BYTE_TOKENS, SPACE
from regrow.tokenizers.encoding import chunks
from regrow.tokenizers.families import family_of
from regrow.tokenizers.tokenizer_json import token_ids

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Json = dict[str, Any]
Pair = tuple[str, str]
Words = Mapping[tuple[str, ...], int]
"""How often each word occurs, as its tokens."""

_MOST_TOKENS = 1 << 22
"""When all words together have so many tokens, half of the rare words are dropped."""
_NUMBER = re.compile(rf"{SPACE}?\d\d+")
"""A token of several digits; without any, the tokenizer keeps digits apart."""


def words_of(
    tokenizer: "Tokenizer", tokenizer_json: Json, documents: Iterable[str], most: int = _MOST_TOKENS
) -> Words:
    """The words of some documents as tokens, and how often each occurs.

    The pre-tokenizer splits text into words. A token that begins with the sign for a space also
    begins a word. Added tokens, the unknown token and byte tokens are not in words. Words of one
    token are left out.

    Memory grows with the number of distinct words, up to about half a GB (``most`` tokens in all).
    Then half of the words that occurred once are dropped, and the others count twice; when memory
    is full again, half of those that count at most twice; and so on. So each pair of tokens keeps
    its count on average, also in a language without spaces, whose words are whole clauses that
    seldom occur again.
    """
    ids = token_ids(tokenizer_json)
    content = {token: text for text, token in ids.items()}
    alone, begins = _borders(tokenizer_json, ids)
    found: Counter[tuple[int, ...]] = Counter()
    held, rare = 0, 1
    for chunk in chunks(documents):
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
            for word in _runs(encoding, alone, begins):
                held += len(word) * (word not in found)
                found[word] += 1
        if held > most:
            found = _thinned(found, rare)
            held, rare = sum(map(len, found)), 2 * rare
            most = max(most, 2 * held)
    return {tuple(content[token] for token in word): times for word, times in found.items()}


def _thinned(words: Counter[tuple[int, ...]], rare: int) -> Counter[tuple[int, ...]]:
    """Half of the words that count at most `rare`, which then count twice as much, and all others.

    Which half is decided by a hash.
    """
    found: Counter[tuple[int, ...]] = Counter()
    for word, times in words.items():
        if times > rare:
            found[word] = times
        elif blake2b(repr((rare, word)).encode(), digest_size=1).digest()[0] & 1:
            found[word] = 2 * times
    return found


def _borders(
    tokenizer_json: Json, ids: Mapping[str, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By id, [largest id + 1]: whether a token is never in a word; whether it begins a word."""
    alone = np.zeros(max(ids.values()) + 1, dtype=np.bool_)
    begins = np.zeros_like(alone)
    alone[[token["id"] for token in tokenizer_json.get("added_tokens") or []]] = True
    if (unknown := tokenizer_json["model"].get("unk_token")) in ids:
        alone[ids[unknown]] = True
    if family_of(tokenizer_json) == "SentencePiece BPE":
        alone[[ids[byte] for byte in BYTE_TOKENS if byte in ids]] = True
        # No pre-tokenizer keeps lines and numbers apart.
        has_numbers = any(map(_NUMBER.fullmatch, ids))
        for content, token in ids.items():
            if any(c.isspace() or (c.isdigit() and not has_numbers) for c in content):
                alone[token] = True
        begins[[token for content, token in ids.items() if content.startswith(SPACE)]] = True
    return alone, begins


def _runs(
    encoding: "Encoding", alone: NDArray[np.bool_], begins: NDArray[np.bool_]
) -> Iterable[tuple[int, ...]]:
    """The words of several tokens in a text."""
    tokens = np.array(encoding.ids, dtype=np.int64)
    if len(tokens) < 2:
        return
    words = np.array([-1 if word is None else word for word in encoding.word_ids])
    border = (words[1:] != words[:-1]) | begins[tokens[1:]]
    border |= alone[tokens[1:]] | alone[tokens[:-1]]
    ends = np.concatenate([[0], 1 + np.flatnonzero(border), [len(tokens)]])
    for number in np.flatnonzero(np.diff(ends) > 1):
        yield tuple(tokens[ends[number] : ends[number + 1]].tolist())


def learn_merges(words: Words, known: Collection[str], most: int, least: int) -> list[Pair]:
    """The next ``most`` merges of BPE's training, of pairs that occur ``least`` times.

    Of equally frequent pairs, the first in the order of code points is merged. A pair whose product
    is a token already (``known``) is skipped: BPE does not build that token from this pair, and the
    model was not trained on it there.
    """
    known = set(known)
    texts = [list(tokens) for tokens in words]
    times = list(words.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, tokens in enumerate(texts):
        for pair in pairwise(tokens):
            counts[pair] += times[number]
            places[pair].add(number)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < most:
        negative, pair = heapq.heappop(heap)
        if -negative != counts[pair]:
            continue  # an old count; the present count is in the heap too
        if -negative < least:
            break
        if "".join(pair) in known:
            continue
        merges.append(pair)
        known.add("".join(pair))
        for changed in _merge(pair, texts, times, counts, places):
            if counts[changed] > 0:
                heapq.heappush(heap, (-counts[changed], changed))
    return merges


def _merge(
    pair: Pair,
    texts: list[list[str]],
    times: list[int],
    counts: Counter[Pair],
    places: defaultdict[Pair, set[int]],
) -> set[Pair]:
    """Merge a pair in all words, from the left; returns the pairs whose count changed."""
    changed: set[Pair] = set()
    for number in places.pop(pair):
        old = texts[number]
        new: list[str] = []
        at = 0
        while at < len(old):
            if tuple(old[at : at + 2]) == pair:
                new.append("".join(pair))
                at += 2
            else:
                new.append(old[at])
                at += 1
        for each in pairwise(old):
            counts[each] -= times[number]
            changed.add(each)
        for each in pairwise(new):
            counts[each] += times[number]
            places[each].add(number)
            changed.add(each)
        texts[number] = new
    changed.discard(pair)
    return changed
