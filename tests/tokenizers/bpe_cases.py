"""Small byte-level BPE tokenizers as data, and strategies for them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Json = dict[str, Any]

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def added_token(content: str, token: int, special: bool = True, **more: bool) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token, "content": content, **flags, **more, "special": special}


def tokenizer_json(
    merges: Sequence[tuple[str, str]],
    *,
    before: Iterable[str] = ("<s>",),
    alphabet: Sequence[str] = ALPHABET,
    outside: Sequence[str] = (),
    ignore_merges: bool = False,
    as_strings: bool = False,
    unk: str | None = None,
    order: Sequence[int] | None = None,
) -> Json:
    """A tokenizer with ``before``, ``alphabet`` and the products of ``merges`` as its vocabulary.

    ``before`` are special tokens inside the vocabulary, ``outside`` are added after it, and
    ``order`` gives the ids of the vocabulary.
    """
    tokens = list(dict.fromkeys([*before, *alphabet, *(a + b for a, b in merges)]))
    places = range(len(tokens)) if order is None else order
    vocab = {token: int(place) for token, place in zip(tokens, places, strict=True)}
    added = [added_token(content, vocab[content]) for content in before]
    added += [added_token(c, len(vocab) + i, special=i % 2 == 0) for i, c in enumerate(outside)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unk,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": [f"{a} {b}" if as_strings else [a, b] for a, b in merges],
        },
    }


def trained(text: list[str], size: int, before: list[str]) -> Json:
    """A tokenizer that the library trained on ``text``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=before,
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    contents: Json = json.loads(tokenizer.to_str())
    return contents


def load(contents: Json) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(contents))


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text).ids
    return ids


def decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


def total(contents: Json) -> int:
    return len(load(contents).get_vocab(with_added_tokens=True))


def zeros(contents: Json) -> NDArray[np.int64]:
    ids = load(contents).get_vocab(with_added_tokens=True).values()
    return np.zeros(max(ids) + 1, dtype=np.int64)


def built_alone(contents: Json) -> set[str]:
    """The vocabulary's tokens that the library's BPE encodes to themselves when alone."""
    plain = load({**contents, "model": {**contents["model"], "ignore_merges": False}})
    return {
        token
        for token in contents["model"]["vocab"]
        if [piece.value for piece in plain.model.tokenize(token)] == [token]
    }


@st.composite
def wild_json(draw: st.DrawFn) -> Json:
    """Merges in an order that no training gives.

    Tokens that cannot be built, several merges for a token and pairs listed twice are common; ids
    are in any order, and some bytes may be missing, with and without a token for them.
    """
    merges: list[tuple[str, str]] = []
    tokens = ["a", "b", "c", "Ġ", "Ã", "©"]
    for _ in range(draw(st.integers(1, 24))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if len(pair[0] + pair[1]) <= 8:
            merges.append(pair)
            tokens.append(pair[0] + pair[1])
    # All ways to write a token as two tokens: the way Llama 3 lists its merges.
    known = set(tokens)
    others = [(t[:i], t[i:]) for t in sorted(known) for i in range(1, len(t))]
    others = [(left, right) for left, right in others if {left, right} <= known]
    if others:
        merges += draw(st.lists(st.sampled_from(others), max_size=12))
    merges = draw(st.permutations(merges))
    used = {part for pair in merges for part in pair}
    missing = draw(st.sets(st.sampled_from(["z", "Å", "ł"]), max_size=3)) - used
    before = draw(st.lists(st.sampled_from(["<s>", "</s>", "<unk>"]), unique=True))
    unk = "<unk>" if "<unk>" in before else None
    alphabet = [byte for byte in ALPHABET if byte not in missing]
    vocabulary = len({*before, *alphabet, *(a + b for a, b in merges)})
    return tokenizer_json(
        merges,
        before=before,
        alphabet=alphabet,
        outside=draw(st.lists(st.sampled_from(["<pad>", "[img]", "ab c"]), unique=True)),
        ignore_merges=draw(st.booleans()),
        as_strings=draw(st.booleans()),
        unk=unk,
        order=draw(st.permutations(range(vocabulary))),
    )


@st.composite
def trained_json(draw: st.DrawFn) -> Json:
    text = draw(st.lists(st.text("abcde é日", max_size=40), min_size=1, max_size=6))
    before = draw(st.lists(st.sampled_from(["<s>", "</s>", "<mask>"]), unique=True))
    return trained(text, 256 + len(before) + draw(st.integers(0, 40)), before)


texts = st.lists(
    st.one_of(
        st.text("abc é", max_size=12),
        st.text(max_size=6),
        st.sampled_from(["<s>", "<pad>", "[img]", "ab c", "z", "ł日"]),
    ),
    max_size=5,
).map("".join)
