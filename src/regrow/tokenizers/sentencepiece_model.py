"""The `.model` of sentencepiece: its pieces, and the same file with fewer of them.

It is read and written as a protobuf message, which needs the extra `sentencepiece`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from regrow.common.errors import UserError
from regrow.tokenizers.alphabet import SPACE, tokens_for_alphabet
from regrow.tokenizers.candidates import Reason
from regrow.tokenizers.merges import last_merges_by_score

Kind = Literal["normal", "unknown", "control", "user_defined", "unused", "byte"]

_SPECIAL_IDS = ("unk_id", "bos_id", "eos_id", "pad_id")


class Piece(NamedTuple):
    """One piece.

    Attributes:
        content: its text.
        score: the logarithm of its probability (Unigram), or the order of its merge (BPE).
        kind: only a normal piece is text; a user-defined piece is cut out of the text first.
    """

    content: str
    score: float
    kind: Kind

    @property
    def is_text(self) -> bool:
        return self.kind == "normal"


@dataclass(frozen=True, eq=False)
class SentencePieceModel:
    """A `.model` file.

    Attributes:
        name: of the file.
        raw: the bytes of the file.
        proto: the same, parsed.
    """

    name: str
    raw: bytes
    proto: Any

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        names = {
            value.number: value.name.lower()
            for value in self.proto.SentencePiece.DESCRIPTOR.enum_types_by_name["Type"].values
        }
        return tuple(Piece(p.piece, p.score, names[p.type]) for p in self.proto.pieces)

    @property
    def kind(self) -> str:
        """The family, see :data:`regrow.tokenizers.families.FAMILIES`."""
        trained = self.proto.trainer_spec
        names = {trained.UNIGRAM: "Unigram", trained.BPE: "SentencePiece BPE"}
        return names.get(trained.model_type, "of single words or characters")

    def required(self) -> dict[str, Reason]:
        """The pieces that must stay, and why.

        Unigram scores unknown text by the least score of all pieces of text, and a user-defined
        piece by the greatest (``unigram_model.cc``). So the first piece of each of these scores
        stays. If there is no byte fallback, all characters stay.
        """
        found: dict[str, Reason] = {}
        for piece in self.pieces:
            if piece.kind in ("unknown", "control", "user_defined"):
                found[piece.content] = "special"
            elif piece.kind == "byte":
                found[piece.content] = "byte"
        text = [piece for piece in self.pieces if piece.is_text]
        if self.kind == "Unigram" and text:  # before the characters, which may be given up
            found.setdefault(min(text, key=lambda piece: piece.score).content, "score")
            if any(piece.kind == "user_defined" for piece in self.pieces):
                found.setdefault(max(text, key=lambda piece: piece.score).content, "score")
        contents = [piece.content for piece in text]
        if self.proto.trainer_spec.byte_fallback:
            for content in tokens_for_alphabet(contents, frozenset(SPACE)):
                found.setdefault(content, "byte")
        else:
            for content in tokens_for_alphabet(contents, frozenset().union(*contents)):
                found.setdefault(content, "character")
        return found

    def check(self, kind: str, ids: Mapping[str, int]) -> None:
        """Raise UserError if the tokenizer is of another family, or a piece of text is no token.

        Args:
            kind: the family of the tokenizer.
            ids: of all its tokens, by content.
        """
        if self.kind != kind:
            raise UserError(
                f"{self.name} is {self.kind}, tokenizer.json {kind}; delete the one that is not "
                "the model's"
            )
        for piece in self.pieces:
            if piece.is_text and piece.content not in ids:
                raise UserError(
                    f"{self.name} has {piece.content!r}, which tokenizer.json lacks; "
                    f"make them agree or delete {self.name}"
                )

    def prune(self, gone: Collection[str]) -> bytes:
        """The file without the pieces in ``gone``, the others in their order.

        The test sentences in the file are left out, since their pieces may have changed. A piece
        that BPE could not build, and now could, gets a type that is not searched in text.
        """
        old = self.proto
        new = type(old)()
        for field in ("trainer_spec", "normalizer_spec", "denormalizer_spec"):
            if old.HasField(field):
                getattr(new, field).CopyFrom(getattr(old, field))
        newly_built = set() if self.kind == "Unigram" else self._unbuilt() - self._unbuilt(gone)
        place: dict[int, int] = {}
        for number, piece in enumerate(old.pieces):
            if piece.piece in gone:
                continue
            place[number] = len(new.pieces)
            new.pieces.add().CopyFrom(piece)
            if piece.piece in newly_built:
                # transformers takes it for a special token if it reads this file alone.
                new.pieces[-1].type = piece.CONTROL
        if len(new.pieces) == len(old.pieces):
            return self.raw
        new.trainer_spec.vocab_size = len(new.pieces)
        for key in _SPECIAL_IDS:
            number = getattr(old.trainer_spec, key)
            if place.get(number, number) != number:
                setattr(new.trainer_spec, key, place[number])
        return bytes(new.SerializeToString(deterministic=True))

    def _unbuilt(self, gone: Collection[str] = ()) -> set[str]:
        """Pieces of several characters that BPE cannot build without those in ``gone``."""
        scores = {
            piece.content: piece.score
            for piece in self.pieces
            if piece.is_text and piece.content not in gone
        }
        built = last_merges_by_score(scores)
        return {content for content in scores if len(content) > 1 and content not in built}


def read_sentencepiece_models(directory: Path) -> list[SentencePieceModel]:
    """Every `.model` file of a directory, in order of their names.

    Raises:
        UserError: one cannot be read, or the extra is not installed.
    """
    paths = sorted(path for path in directory.glob("*.model") if path.is_file())
    return [_read(path) for path in paths]


def _read(path: Path) -> SentencePieceModel:
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from sentencepiece.sentencepiece_model_pb2 import (  # type: ignore[attr-defined]
            ModelProto,
        )
    except ImportError as error:
        raise UserError(
            f'{path}: needs pip install "regrow[sentencepiece]"; or delete it, if tokenizer.json '
            "is there"
        ) from error
    raw = path.read_bytes()
    try:
        proto = ModelProto.FromString(raw)
    except DecodeError as error:
        raise UserError(f"{path}: not a model of sentencepiece") from error
    if not proto.pieces:
        raise UserError(f"{path}: not a model of sentencepiece, it has no pieces")
    return SentencePieceModel(path.name, raw, proto)
