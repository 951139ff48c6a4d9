"""Which tokens a text would be shorter with: BPE's training, begun from the tokens there are.

Gage 1994 merged the most frequent pair of symbols again and again, and Sennrich et al. 2016
(arXiv 1508.07909, section 3.2) did so to words. Here the symbols at the start are the tokens of a
tokenizer, so the text is read as it was, and then the new merges apply: an old merge never follows
a new one, as no old merge has a new token in it.

A stretch of text whose borders are borders of tokens is encoded as it is alone (see
:mod:`regrow.tokenizers.bpe`). So a new token is merged from the same parts wherever it comes to be,
and is built where it stands alone too, as ``ignore_merges`` takes for granted.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
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
"""With so many tokens in all words together, those words that were seen once are forgotten."""


def words_of(
    tokenizer: "Tokenizer", tokenizer_json: Json, documents: Iterable[str], most: int = _MOST_TOKENS
) -> Words:
    """The words of some documents, as the tokenizer has them: their tokens.

    A word is what the pre-tokenizer makes one, and ends where the sign for a space begins the next.
    Tokens that are no text end one too: added ones, the unknown one, bytes of what has no token.
    Words of one token are left out. Memory grows with the number of distinct words, up to about
    half a GB (``most`` tokens in all).
    """
    ids = token_ids(tokenizer_json)
    content = {token: text for text, token in ids.items()}
    alone, begins = _borders(tokenizer_json, ids)
    found: Counter[tuple[int, ...]] = Counter()
    held = 0
    for chunk in chunks(documents):
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
            for word in _runs(encoding, alone, begins):
                held += len(word) * (word not in found)
                found[word] += 1
        if held > most:
            found = Counter({word: times for word, times in found.items() if times > 1})
            held = sum(map(len, found))
            most = max(most, 2 * held)
    return {tuple(content[token] for token in word): times for word, times in found.items()}


def _borders(
    tokenizer_json: Json, ids: Mapping[str, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By id, shape [largest id + 1]: whether a token stands alone; whether it begins a word."""
    alone = np.zeros(max(ids.values()) + 1, dtype=np.bool_)
    begins = np.zeros_like(alone)
    alone[[token["id"] for token in tokenizer_json.get("added_tokens") or []]] = True
    if (unknown := tokenizer_json["model"].get("unk_token")) in ids:
        alone[ids[unknown]] = True
    if family_of(tokenizer_json) == "SentencePiece BPE":
        alone[[ids[byte] for byte in BYTE_TOKENS if byte in ids]] = True
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

    Of equally frequent pairs the first in the order of their code points is merged. A pair that
    spells a token that there is already (``known``) is passed over: BPE does not build that token
    there, and the model was not trained on it there.
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
            continue  # an older count; the present one is in the heap too
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
    """Merge a pair wherever it stands, from the left; the pairs whose count changed."""
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
