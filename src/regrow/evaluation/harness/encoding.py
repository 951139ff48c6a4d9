"""From the texts of a request to tokens, as lm-eval's `hf` encodes them.

An encoder-decoder with UL2's `<S>` and sentinels (OpenBA) reads `<S> prompt <extra_id_0>`, and its
decoder writes after `<extra_id_0>` (OpenBA-V2 report, evaluation). The sentinel is found by its
name, since its id moves when the vocabulary is pruned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from regrow.common.errors import UserError
from regrow.evaluation.tasks.forms import PromptForm
from regrow.models.loading import library_errors
from regrow.objectives.rows.span_corruption import decoder_start
from regrow.objectives.special_tokens import sentinel_ids

_CONTINUE = "<S>"

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a context and of what is scored after it. The context of an encoder-decoder is what
its encoder reads."""


@dataclass(frozen=True)
class Encoding:
    """How a model's texts are encoded.

    Raises UserError on construction if an encoder-decoder lacks the tokens of its form.

    Attributes:
        tokenizer: Of transformers.
        config: Of transformers.
        form: Of the prompts of an encoder-decoder.
    """

    tokenizer: Any
    config: Any
    form: PromptForm = "auto"

    def __post_init__(self) -> None:
        if self.is_encoder_decoder:
            decoder_start(self.config)
        if not self.has_openba_prompts:
            return
        if not self.is_encoder_decoder:
            raise UserError(
                "only an encoder-decoder reads OpenBA's prompts; give plain", key="prompt"
            )
        for name, found in ((_CONTINUE, self._prefix), ("<extra_id_0>", self._sentinel)):
            if found is None:
                raise UserError(
                    f"the tokenizer has no {name}, which OpenBA's prompts need; give plain",
                    key="prompt",
                )

    @cached_property
    def is_encoder_decoder(self) -> bool:
        return bool(self.config.is_encoder_decoder)

    @cached_property
    def has_openba_prompts(self) -> bool:
        """Whether prompts are written as for OpenBA."""
        if self.form == "auto":
            is_meant = self.config.model_type == "openba" or self._prefix is not None
            return self.is_encoder_decoder and is_meant
        return self.form == "openba"

    @cached_property
    def decoder_begin(self) -> tuple[int, ...]:
        """What the decoder of an encoder-decoder reads before the tokens that are scored."""
        start = decoder_start(self.config)
        return (start, self._sentinel) if self.has_openba_prompts else (start,)  # type: ignore[return-value]

    @cached_property
    def first(self) -> int:
        """The token before a text without a context: bos, else eos."""
        bos: int | None = self.tokenizer.bos_token_id
        found = self.tokenizer.eos_token_id if bos is None else bos
        if found is None:
            raise UserError("the tokenizer has neither a bos nor an eos token; give it one")
        return int(found)

    def pairs(self, texts: Sequence[tuple[str, str]]) -> list[Pair]:
        """The tokens of contexts and their continuations, in order.

        A decoder's context and continuation are encoded together, since a token may begin in the
        one and end in the other. Spaces at the end of a context belong to the continuation.
        """
        moved = [_with_spaces_moved(*text) for text in texts]
        contexts = dict.fromkeys(context for context, _ in moved if context)
        known = dict(zip(contexts, self.contexts([*contexts]), strict=True))
        if self.is_encoder_decoder:
            ends = self._encode([end for _, end in moved], special=False)
            empty = self._empty_context()
            return [
                (known[context] if context else empty, tuple(ids))
                for (context, _), ids in zip(moved, ends, strict=True)
            ]
        whole = self._encode_whole([context + end for context, end in moved if context])
        alone = iter(self._encode([end for context, end in moved if not context], special=False))
        together = iter(whole)
        return [
            (known[context], tuple(next(together)[len(known[context]) :]))
            if context
            else self._without_context(next(alone))
            for context, _ in moved
        ]

    def contexts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens that a model reads of some prompts, in order."""
        if self.has_openba_prompts:
            return [self._wrapped(ids) for ids in self._encode(texts, special=False)]
        return [tuple(ids) for ids in self._encode_whole(texts)]

    def within(self, context: tuple[int, ...], window: int) -> tuple[int, ...]:
        """What a model reads of a context if it reads `window` tokens, at least one.

        The end is kept, as lm-eval does. Of OpenBA's prompts the first token is kept too, which
        names the mode of the model; what is left out is the text after it.
        """
        if len(context) <= window:
            return context
        first = context[:1] if self.has_openba_prompts else ()
        return (*first, *context[len(context) - window + len(first) :])

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of some texts, of which a model predicts all."""
        if self.is_encoder_decoder:
            return self._encode(texts, special=False)
        return self._encode_whole(texts)

    def text_window(self, context: Sequence[int], ids: Sequence[int]) -> Pair:
        """A part of a text, `ids`, after `context`, which is `first` at its beginning."""
        if self.has_openba_prompts:
            return self._wrapped([token for token in context if token != self.first]), tuple(ids)
        return tuple(context), tuple(ids)

    @cached_property
    def _sentinel(self) -> int | None:
        found = sentinel_ids(self.tokenizer)
        return found[0] if found else None

    @cached_property
    def _prefix(self) -> int | None:
        found: int | None = self.tokenizer.get_vocab().get(_CONTINUE)
        return found

    def _wrapped(self, ids: Sequence[int]) -> tuple[int, ...]:
        assert self._prefix is not None
        assert self._sentinel is not None
        return (self._prefix, *ids, self._sentinel, self.tokenizer.eos_token_id)

    def _empty_context(self) -> tuple[int, ...]:
        return self._wrapped(()) if self.has_openba_prompts else (self.first,)

    def _without_context(self, ids: Sequence[int]) -> Pair:
        if ids and ids[0] == self.first:  # the text brings its own
            return tuple(ids[:1]), tuple(ids[1:])
        return (self.first,), tuple(ids)

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """With the special tokens that the tokenizer adds, but no second bos."""
        if self.is_encoder_decoder:
            return self._encode(texts, special=None)
        begin = self.tokenizer.decode(self.first)
        found = self._encode(texts, special=None)
        if not any(text.startswith(begin) for text in texts):
            return found
        bare = self._encode(texts, special=False)
        return [
            without if text.startswith(begin) else with_special
            for text, with_special, without in zip(texts, found, bare, strict=True)
        ]

    def _encode(self, texts: Sequence[str], *, special: bool | None) -> list[list[int]]:
        """`special`: whether special tokens are added; None leaves it to the tokenizer."""
        if not texts:
            return []
        options = {} if special is None else {"add_special_tokens": special}
        with library_errors("the tokenizer cannot encode a question"):
            found: list[list[int]] = self.tokenizer([*texts], **options)["input_ids"]
        return found


def _with_spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return (bare, context[len(bare) :] + continuation) if bare else (context, continuation)
