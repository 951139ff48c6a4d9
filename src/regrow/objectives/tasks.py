"""From the name of an objective to what is learned, and the rows that it is learned from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from regrow.corpus.packing import pack, start_and_end
from regrow.corpus.samples import Samples
from regrow.objectives.causal import Causal
from regrow.objectives.corrupted import check_sentinels, corrupt_text, denoising_tokens
from regrow.objectives.denoising import SPAN_CORRUPTION, UL2
from regrow.objectives.names import objective_name
from regrow.objectives.objective import Objective
from regrow.objectives.optimized import fixed_lengths, join_text
from regrow.objectives.seq2seq import Seq2Seq
from regrow.objectives.ul2 import mix_denoisers


@dataclass(frozen=True)
class _Kind:
    """One objective for one kind of model.

    Attributes:
        make: (documents, tokenizer, config, row length, seed) -> what is learned, and its rows.
        least: (tokenizer, config, row length) -> tokens of text that it needs at least. Raises
            UserError where the tokenizer, or the length, does not do.
    """

    make: Callable[[Iterable[str], Any, Any, int, int], tuple[Objective, Samples]]
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


_DECODER = {
    "causal": _Kind(
        lambda texts, tokenizer, config, length, seed: (Causal(), pack(texts, tokenizer, length)),
        _causal_least,
    ),
}
_ENCODER_DECODER = {
    "span-corruption": _Kind(
        lambda *given: (Seq2Seq(), corrupt_text(*given)), _span_corruption_least
    ),
    "ul2": _Kind(lambda *given: (Seq2Seq(), mix_denoisers(*given)), _ul2_least),
    "o-ul2": _Kind(lambda *given: (Seq2Seq(), join_text(*given)), _optimized_least),
}


def make_task(
    named: str | None,
    documents: Iterable[str],
    tokenizer: Any,
    config: Any,
    row_length: int,
    seed: int,
) -> tuple[Objective, Samples]:
    """What a model of this config learns from documents, and their rows.

    `named`: the objective; None for the one that its kind was trained with.

    Raises UserError where the objective, the text or the tokenizer does not do.
    """
    kind = _kind(named, config)
    return kind.make(documents, tokenizer, config, row_length, seed)


def least_text(named: str | None, tokenizer: Any, config: Any, row_length: int) -> int:
    """Tokens that a text needs at least, to be learned from in rows of this length.

    Raises UserError where the objective, the tokenizer or the length does not do.
    """
    return _kind(named, config).least(tokenizer, config, row_length)


def _kind(named: str | None, config: Any) -> _Kind:
    both = bool(config.is_encoder_decoder)
    name = objective_name(named, is_encoder_decoder=both)
    return (_ENCODER_DECODER if both else _DECODER)[name]
