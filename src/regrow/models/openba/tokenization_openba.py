"""Tokenizer of OpenBA: SentencePiece Unigram with byte fallback, sentinels and mode tokens.

Read from `tokenizer.json`, or from the `spiece.model` of the published checkpoints (which needs
sentencepiece). After the pieces follow `<extra_id_99>` ... `<extra_id_0>`, then `<R>`, `<S>`,
`<X>`. The published tokenizer knew the sentinels as ids only and took their text apart; here their
text is the token. This file travels with every OpenBA directory and imports nothing but
tokenizers and transformers.
"""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))
MODES = ("<R>", "<S>", "<X>")


class OpenBATokenizer(PreTrainedTokenizerFast):
    """OpenBA's tokenizer, on the tokenizers library."""

    vocab_files_names = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    model = Unigram

    @classmethod
    def convert_from_spm_model(
        cls,
        vocab: list[tuple[str, float]],
        unk_id: int = 2,
        _spm_precompiled_charsmap: bytes | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What transformers calls with the pieces of a `spiece.model`."""
        tokenizer = Tokenizer(Unigram(vocab, unk_id=unk_id, byte_fallback=True))
        if _spm_precompiled_charsmap:
            tokenizer.normalizer = normalizers.Precompiled(_spm_precompiled_charsmap)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", "always", True)]
        )
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace("▁", "always", True)]
        )
        added = [token for token in (*SENTINELS, *MODES) if tokenizer.token_to_id(token) is None]
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
        eos = "</s>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}",
            pair=f"$A {eos} $B {eos}",
            special_tokens=[(eos, tokenizer.token_to_id(eos))],
        )
        kwargs.setdefault("unk_token", "<unk>")
        kwargs.setdefault("eos_token", eos)
        kwargs.setdefault("pad_token", "<pad>")
        kwargs.pop("additional_special_tokens", None)
        kwargs["extra_special_tokens"] = [*SENTINELS, *MODES]
        return {**kwargs, "tokenizer_object": tokenizer}
