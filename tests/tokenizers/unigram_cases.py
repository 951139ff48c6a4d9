"""Small Unigram tokenizers as data, and strategies for them."""

import json

from hypothesis import strategies as st
from tokenizers import Tokenizer

from regrow.tokenizers.alphabet import BYTE_TOKENS, SPACE
from tests.tokenizers.bpe_cases import Json, added_token


def unigram_json(
    pieces: list[tuple[str, float]],
    *,
    before: tuple[str, ...] = ("<pad>", "</s>", "<unk>"),
    outside: tuple[str, ...] = (),
    byte_fallback: bool = False,
    split: bool = True,
) -> Json:
    """A tokenizer with ``before``, bytes if it falls back to them, and ``pieces``.

    ``split``: words are split and begin with a space; otherwise nothing is done to the text.
    """
    entries = [(token, 0.0) for token in before]
    if byte_fallback:
        entries += [(byte, 0.0) for byte in BYTE_TOKENS]
    vocab = [[content, score] for content, score in {**dict(entries), **dict(pieces)}.items()]
    metaspace = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if split else "never",
        "split": split,
    }
    added = [added_token(content, i) for i, content in enumerate(before)]
    added += [added_token(c, len(vocab) + i, special=i % 2 == 0) for i, c in enumerate(outside)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": metaspace,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]},
        "model": {
            "type": "Unigram",
            "unk_id": before.index("<unk>") if "<unk>" in before else None,
            "vocab": vocab,
            "byte_fallback": byte_fallback,
        },
    }


def contents_of(tokenizer: Tokenizer) -> Json:
    contents: Json = json.loads(tokenizer.to_str())
    return contents


# Few values, so that paths of equal scores are common; sums of tenths are rounded.
_SCORES = st.sampled_from([-0.1, -0.2, -0.3, -0.7, -1.0, -1.1, -2.0, -3.0, -4.5, -9.0, -30.0])


@st.composite
def wild_unigram(draw: st.DrawFn) -> Json:
    """Pieces and scores that no training gives: ties, gaps, and characters that are bytes only."""
    alphabet = f"abc{SPACE}é日"
    contents = draw(
        st.lists(st.text(alphabet, min_size=1, max_size=4), min_size=1, max_size=24, unique=True)
    )
    pieces = [(content, draw(_SCORES)) for content in contents]
    byte_fallback = draw(st.booleans())
    # The guarantee makes an exception for characters without a piece: they are tested apart.
    needed = {SPACE} if byte_fallback and draw(st.booleans()) else {SPACE, *"".join(contents)}
    pieces += [(c, draw(_SCORES)) for c in sorted(needed.difference(contents))]
    return unigram_json(
        draw(st.permutations(pieces)),
        outside=tuple(draw(st.lists(st.sampled_from(["<extra_id_1>", "[img]"]), unique=True))),
        byte_fallback=byte_fallback,
        split=draw(st.booleans()),
    )


texts = st.lists(
    st.one_of(
        st.text("abc é日", max_size=12),
        st.text(max_size=6),
        st.sampled_from(["</s>", "<extra_id_1>", "[img]", "  ", SPACE, "<0x41>", "😀"]),
    ),
    max_size=5,
).map("".join)
