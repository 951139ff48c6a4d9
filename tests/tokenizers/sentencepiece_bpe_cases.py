"""Small BPE tokenizers of SentencePiece in both forms, and strategies for them."""

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

from regrow.tokenizers.alphabet import BYTE_TOKENS, SPACE
from tests.tokenizers.bpe_cases import Json, added_token

SPECIAL = ("<unk>", "<s>", "</s>")


def merges_of(scores: dict[str, float]) -> list[list[str]]:
    """All pairs of pieces that spell a piece, those of the highest score first."""
    found = [
        (-score, [piece[:at], piece[at:]])
        for piece, score in scores.items()
        for at in range(1, len(piece))
        if piece[:at] in scores and piece[at:] in scores
    ]
    return [pair for _, pair in sorted(found, key=lambda entry: entry[0])]


def bpe_json(
    scores: dict[str, float],
    *,
    outside: Iterable[str] = (),
    byte_fallback: bool = True,
    ignore_merges: bool = False,
    merges: list[list[str]] | None = None,
) -> Json:
    """A tokenizer as Llama 2's: special tokens, bytes, then the pieces."""
    tokens = [*SPECIAL, *(BYTE_TOKENS if byte_fallback else ()), *scores]
    vocab = {token: i for i, token in enumerate(tokens)}
    added = [added_token(content, i) for i, content in enumerate(SPECIAL)]
    added += [added_token(c, len(vocab) + i, special=False) for i, c in enumerate(outside)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": byte_fallback,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": merges_of(scores) if merges is None else merges,
        },
    }


def bpe_model(scores: dict[str, float], *, byte_fallback: bool = True) -> bytes:
    """The same as a `.model`."""
    proto: Any = ModelProto()
    kind = proto.SentencePiece
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = byte_fallback
    proto.trainer_spec.unk_id, proto.trainer_spec.bos_id, proto.trainer_spec.eos_id = 0, 1, 2
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.remove_extra_whitespaces = False
    for content, type_ in zip(SPECIAL, (kind.UNKNOWN, kind.CONTROL, kind.CONTROL), strict=True):
        proto.pieces.add(piece=content, score=0.0, type=type_)
    for content in BYTE_TOKENS if byte_fallback else ():
        proto.pieces.add(piece=content, score=0.0, type=kind.BYTE)
    for content, score in scores.items():
        proto.pieces.add(piece=content, score=score, type=kind.NORMAL)
    return bytes(proto.SerializeToString())


@st.composite
def wild_scores(draw: st.DrawFn) -> dict[str, float]:
    """Pieces in an order that no training gives, some with equal scores, some unreachable."""
    alphabet = f"abc{SPACE}é日"
    tokens = list(alphabet)
    for _ in range(draw(st.integers(1, 24))):
        token = draw(st.sampled_from(tokens)) + draw(st.sampled_from(tokens))
        if len(token) <= 6:
            tokens.append(token)
    # A piece whose parts are no pieces, which neither form can build.
    tokens += draw(st.lists(st.text(alphabet, min_size=2, max_size=5), max_size=2))
    order = draw(st.permutations(sorted(set(tokens))))
    step = draw(st.sampled_from([1, 1, 3]))
    return {token: -float(place // step) for place, token in enumerate(order)}
