"""Tokenizer of OpenBA: SentencePiece Unigram with byte fallback, sentinels and mode tokens.

It is read from `tokenizer.json`, or from the `spiece.model` of the published checkpoints, which
needs sentencepiece and protobuf. After the pieces follow the sentinels `<extra_id_99>` ...
`<extra_id_0>`, then the mode tokens `<R>`, `<S>`, `<X>`. The published tokenizer had the sentinels
only as ids and split their text into pieces; here the text of a sentinel gives its token.

The ids are those of sentencepiece, with one exception: a combining mark (or joiner) after a
character that normalisation replaces, such as a full-width letter. The tokenizers library
normalises the two together and can drop the mark. Every OpenBA directory contains this file, so it
imports only tokenizers and transformers.
"""

from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))
MODES = ("<R>", "<S>", "<X>")


def read_pieces(path: Path) -> Tokenizer:
    """The tokenizer of a `spiece.model`, with sentinels and mode tokens after its pieces.

    Raises:
        ImportError: sentencepiece or protobuf is missing.
        ValueError: the file is not a Unigram model, or it treats spaces in another way than
            OpenBA's.
    """
    try:
        from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
    except ImportError as error:
        raise ImportError(
            f"{path}: reading it needs sentencepiece and protobuf (pip install sentencepiece "
            "protobuf); a directory with a tokenizer.json needs neither"
        ) from error
    proto = ModelProto.FromString(path.read_bytes())
    trained, normal = proto.trainer_spec, proto.normalizer_spec
    if trained.model_type != trained.UNIGRAM:
        raise ValueError(f"{path}: no Unigram model")
    if not (normal.remove_extra_whitespaces and normal.add_dummy_prefix):
        raise ValueError(f"{path}: OpenBA's removes extra spaces and puts one in front; this not")
    tokenizer = Tokenizer(
        Unigram(
            [(piece.piece, piece.score) for piece in proto.pieces],
            unk_id=trained.unk_id,
            byte_fallback=trained.byte_fallback,
        )
    )
    charsmap = normal.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Replace(Regex(r"\A | \z"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace("▁", "always", False),
            # Text such as "<0x41>" must not become the byte token of that name.
            pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace("▁", "always", False)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (*SENTINELS, *MODES)])
    eos = proto.pieces[trained.eos_id].piece
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}",
        pair=f"$A {eos} $B {eos}",
        special_tokens=[(eos, trained.eos_id)],
    )
    return tokenizer


class OpenBATokenizer(PreTrainedTokenizerFast):
    """OpenBA's tokenizer, based on the tokenizers library; it adds `</s>` at the end of a text."""

    vocab_files_names = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """The settings with a `tokenizer_object`; transformers calls this on loading a directory.

        Raises:
            OSError: neither tokenizer.json nor spiece.model exists.
            ValueError: the directory gives an added token another id.
        """
        # The published value is true. It deletes spaces before punctuation, so decoding loses text.
        kwargs["clean_up_tokenization_spaces"] = False
        if kwargs.get("tokenizer_file"):
            return super().convert_to_native_format(**kwargs)
        pieces = kwargs.pop("vocab_file", None)
        if not pieces:
            raise OSError(
                f"{kwargs.get('name_or_path')}: neither tokenizer.json nor spiece.model is there"
            )
        tokenizer = read_pieces(Path(pieces))
        for number, token in sorted(kwargs.pop("added_tokens_decoder", {}).items()):
            if tokenizer.token_to_id(str(token)) is None:
                tokenizer.add_tokens([token])
            if (own := tokenizer.token_to_id(str(token))) != number:
                raise ValueError(f"{pieces}: {token} is {number} in the directory, here {own}")
        for name in ("tokenizer_file", "trust_remote_code"):
            kwargs.pop(name, None)
        kwargs = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>", **kwargs}
        kwargs["extra_special_tokens"] = [*SENTINELS, *MODES]
        return {**kwargs, "tokenizer_object": tokenizer}
