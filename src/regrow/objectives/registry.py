"""From the name of an objective to what is learned, and the rows that it is learned from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from regrow.corpus.packing import pack_tokens, start_and_end
from regrow.corpus.samples import Samples
from regrow.corpus.sources import Texts, packed, rows_of
from regrow.corpus.token_store import TokenStore
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.objective import PredictsTokens
from regrow.objectives.losses.prefix_lm import Prefix, PrefixLM
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.names import objective_name
from regrow.objectives.rows.denoisers import SPAN_CORRUPTION, UL2
from regrow.objectives.rows.fill_in_the_middle import infilling_tokens, reordered
from regrow.objectives.rows.optimized_ul2 import Form, fixed_lengths, join_text
from regrow.objectives.rows.shared_rows import share_rows
from regrow.objectives.rows.single_row import PairedRows, SplitRows
from regrow.objectives.rows.span_corruption import (
    CorruptedText,
    check_sentinels,
    corrupt_text,
    denoising_tokens,
)
from regrow.objectives.rows.ul2 import MixedDenoisers, mix_denoisers


@dataclass(frozen=True)
class _Kind:
    """One objective for one kind of model.

    Attributes:
        make: (documents, tokenizer, config, row length, seed) -> what is learned, and its rows;
            of a decoder, (..., prefix), of an encoder-decoder, (..., shared rows).
        least: (tokenizer, config, row length) -> tokens of text that it needs at least. Raises
            UserError where the tokenizer, or the length, does not do.
    """

    make: Callable[..., tuple[PredictsTokens, Samples]]
    least: Callable[[Any, Any, int], int]


def _causal_least(tokenizer: Any, config: Any, row_length: int) -> int:
    start_and_end(tokenizer)
    return row_length


def _span_corruption_least(tokenizer: Any, config: Any, row_length: int) -> int:
    check_sentinels(denoising_tokens(tokenizer, config), row_length, SPAN_CORRUPTION)
    return 1


def _ul2_least(tokenizer: Any, config: Any, row_length: int) -> int:
    marks = denoising_tokens(tokenizer, config)
    for denoiser in UL2.values():
        check_sentinels(marks, row_length, denoiser)
    return 1


def _optimized_least(tokenizer: Any, config: Any, row_length: int) -> int:
    marks = denoising_tokens(tokenizer, config)
    return fixed_lengths(len(marks.sentinels), row_length).split_text


def _infilling_least(tokenizer: Any, config: Any, row_length: int) -> int:
    infilling_tokens(tokenizer)
    return _causal_least(tokenizer, config, row_length)


def _make_causal(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, prefix: Prefix
) -> tuple[PredictsTokens, Samples]:
    return Causal(), packed(texts, tokenizer, row_length)


def _make_split(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, prefix: Prefix
) -> tuple[PredictsTokens, Samples]:
    return PrefixLM(prefix), SplitRows(packed(texts, tokenizer, row_length), seed)


def _make_infilling(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, prefix: Prefix
) -> tuple[PredictsTokens, Samples]:
    def of_text(documents: Iterable[str]) -> Samples:
        return pack_tokens(reordered(documents, tokenizer, row_length, seed), tokenizer, row_length)

    def of_store(store: TokenStore) -> Samples:
        return of_text(
            tokenizer.decode(store.text(number).tolist(), clean_up_tokenization_spaces=False)
            for number in range(len(store))
        )

    return Causal(), rows_of(texts, tokenizer, of_text, of_store)


def _in_one_row(
    pair: Callable[..., Samples],
) -> Callable[[Texts, Any, Any, int, int, Prefix], tuple[PredictsTokens, Samples]]:
    def make(
        texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, prefix: Prefix
    ) -> tuple[PredictsTokens, Samples]:
        pairs = pair(texts, tokenizer, config, row_length, seed)
        marks = denoising_tokens(tokenizer, config)
        return PrefixLM(prefix), PairedRows(pairs, marks.start, marks.pad)

    return make


def _in_two_rows(
    pair: Callable[..., CorruptedText | MixedDenoisers],
) -> Callable[[Texts, Any, Any, int, int, bool], tuple[PredictsTokens, Samples]]:
    def make(
        texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, shared: bool
    ) -> tuple[PredictsTokens, Samples]:
        pairs = pair(texts, tokenizer, config, row_length, seed)
        if not shared:
            return Seq2Seq(), pairs
        hidden = getattr(config, "decoder", config).hidden_size
        return Seq2Seq(shared_rows=True), share_rows(pairs, pairs.windows.text_tokens, seed, hidden)

    return make


def _make_optimized(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, shared: bool
) -> tuple[PredictsTokens, Samples]:
    form: Form = "two rows" if shared else "across"
    samples = join_text(texts, tokenizer, config, row_length, seed, form)
    return Seq2Seq(shared_rows=shared), samples


def _make_optimized_row(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, prefix: Prefix
) -> tuple[PredictsTokens, Samples]:
    return PrefixLM(prefix), join_text(texts, tokenizer, config, row_length, seed, "one row")


_DECODER = {
    "causal": _Kind(_make_causal, _causal_least),
    "prefix-lm": _Kind(_make_split, _causal_least),
    "fill-in-the-middle": _Kind(_make_infilling, _infilling_least),
    "span-corruption": _Kind(_in_one_row(corrupt_text), _span_corruption_least),
    "ul2": _Kind(_in_one_row(mix_denoisers), _ul2_least),
    # What makes it dynamic is the steering of its training.
    "d-ul2": _Kind(_in_one_row(mix_denoisers), _ul2_least),
    "o-ul2": _Kind(_make_optimized_row, _optimized_least),
}
_ENCODER_DECODER = {
    "span-corruption": _Kind(_in_two_rows(corrupt_text), _span_corruption_least),
    "ul2": _Kind(_in_two_rows(mix_denoisers), _ul2_least),
    # What makes it dynamic is the steering of its training.
    "d-ul2": _Kind(_in_two_rows(mix_denoisers), _ul2_least),
    "o-ul2": _Kind(_make_optimized, _optimized_least),
}


def make_task(
    named: str | None,
    texts: Texts,
    tokenizer: Any,
    config: Any,
    row_length: int,
    seed: int,
    prefix: Prefix = "causal",
    *,
    shared_rows: bool = False,
) -> tuple[PredictsTokens, Samples]:
    """What a model of this config learns from documents, and their rows.

    `named`: the objective; None for the one that its kind was trained with. `prefix`: how a decoder
    attends among tokens that are given. `shared_rows`: whether examples of an encoder-decoder share
    rows.

    Raises UserError where the objective, the text or the tokenizer does not do.
    """
    last = shared_rows if config.is_encoder_decoder else prefix
    return _kind(named, config).make(texts, tokenizer, config, row_length, seed, last)


def least_text(named: str | None, tokenizer: Any, config: Any, row_length: int) -> int:
    """Tokens that a text needs at least, to be learned from in rows of this length.

    Raises UserError where the objective, the tokenizer or the length does not do.
    """
    return _kind(named, config).least(tokenizer, config, row_length)


def _kind(named: str | None, config: Any) -> _Kind:
    both = bool(config.is_encoder_decoder)
    name = objective_name(named, is_encoder_decoder=both)
    return (_ENCODER_DECODER if both else _DECODER)[name]
