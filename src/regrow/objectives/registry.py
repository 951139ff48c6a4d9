"""All training objectives by name. An objective is one entry of `OBJECTIVES`.

To add an objective, write its rows (`regrow.objectives.rows`) or its loss
(`regrow.objectives.losses`) and add an entry here. Settings, checks, costs and training take all
they need to know from the entry.

Importing this module imports neither PyTorch nor NumPy, so that a recipe can be read without them.
The functions of the entries import what they need when they are called.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError
from regrow.objectives.special_tokens import (
    missing_infilling_tokens,
    missing_prefixes,
    missing_sentinels,
)

if TYPE_CHECKING:
    from regrow.architectures.flops import SampleShape
    from regrow.corpus.samples import Samples
    from regrow.corpus.sources import Texts
    from regrow.objectives.losses.loss import TokenLoss
    from regrow.objectives.losses.prefix_lm import PrefixAttention
    from regrow.objectives.rows.denoisers import Denoiser
    from regrow.objectives.rows.optimized_ul2 import FixedLengths
    from regrow.objectives.rows.span_corruption import CorruptedText
    from regrow.objectives.rows.ul2 import MixedDenoisers


@dataclass(frozen=True)
class TrainingData:
    """The text of a training, and how it is turned into rows.

    Attributes:
        texts: Documents, token stores, or a mixture of sources.
        tokenizer: The model's tokenizer.
        config: The model's config, which names the token that a decoder begins with.
        row_length: Upper bound on the text tokens in a row.
        seed: Decides all random choices for a sample.
        prefix: How a decoder attends within the prefix of a row, if its objective has one.
        shared_rows: Whether several examples of an encoder-decoder, or several conversations of a
            decoder, share a row. Packed text of a decoder always does.
    """

    texts: "Texts"
    tokenizer: Any
    config: Any
    row_length: int
    seed: int
    prefix: "PrefixAttention" = "causal"
    shared_rows: bool = False


LossAndRows = tuple["TokenLoss", "Samples"]
"""What is minimised, and the rows that it is computed on."""
MakeLossAndRows = Callable[[TrainingData], LossAndRows]
MakePairs = Callable[[TrainingData], "CorruptedText | MixedDenoisers"]
"""Makes samples that are a source and a target each."""


def _any_text(tokenizer: Any, config: Any, row_length: int) -> int:
    return 1


def _one_row(tokenizer: Any, config: Any, row_length: int) -> int:
    return row_length


@dataclass(frozen=True)
class Objective:
    """What a model can be trained to predict.

    Attributes:
        mean_sample: Row length -> shape of the mean sample, from which training costs are
            computed. For a source and a target, it is their shape in an encoder-decoder.
        check: (tokenizer, config, row length) -> None. Raises UserError if the tokenizer or the
            row length does not fit.
        minimum_tokens: (tokenizer, config, row length) -> the fewest tokens of text that are enough
            to train on, if `check` raises nothing. By default one token.
        widest_row: (tokenizer, config, row length) -> the most slots of a row, if `check` raises
            nothing; of sources and targets, the longer ones. By default as many as the text.
        for_decoder: Loss and rows for a decoder-only model; None if it cannot learn this.
        for_encoder_decoder: The same for an encoder-decoder.
        missing_tokens: One function for each kind of special token that examples are written with.
            It gives the tokens of this kind that have to be added to a tokenizer.
        has_prefix: Whether a decoder reads a prefix, which is given and not predicted.
        reads_conversations: Whether it learns the answers of conversations, and no text.
        mixes_denoisers: Whether the shares of UL2's denoisers follow their held-out losses. Its
            samples must be mixed from them (`regrow.objectives.rows.ul2.MixedDenoisers`).
    """

    mean_sample: "Callable[[int], SampleShape]"
    check: Callable[[Any, Any, int], None]
    minimum_tokens: Callable[[Any, Any, int], int] = _any_text
    widest_row: Callable[[Any, Any, int], int] = _one_row
    for_decoder: MakeLossAndRows | None = None
    for_encoder_decoder: MakeLossAndRows | None = None
    missing_tokens: tuple[Callable[[Any], tuple[str, ...]], ...] = ()
    has_prefix: bool = False
    reads_conversations: bool = False
    mixes_denoisers: bool = False


# Next-token prediction, with or without a prefix


def _text_alone(row_length: int) -> "SampleShape":
    from regrow.architectures.flops import SampleShape

    return SampleShape(row_length, decoder=row_length)


def _check_ends(tokenizer: Any, config: Any, row_length: int) -> None:
    from regrow.corpus.packing import start_and_end

    start_and_end(tokenizer)


def _check_infilling(tokenizer: Any, config: Any, row_length: int) -> None:
    from regrow.objectives.rows.fill_in_the_middle import infilling_tokens

    infilling_tokens(tokenizer)
    _check_ends(tokenizer, config, row_length)


def _causal(data: TrainingData) -> LossAndRows:
    from regrow.corpus.sources import packed
    from regrow.objectives.losses.causal import Causal

    return Causal(), packed(data.texts, data.tokenizer, data.row_length)


def _prefix_lm(data: TrainingData) -> LossAndRows:
    from regrow.corpus.sources import packed
    from regrow.objectives.losses.prefix_lm import PrefixLM
    from regrow.objectives.rows.single_row import PrefixRows

    rows = packed(data.texts, data.tokenizer, data.row_length)
    return PrefixLM(data.prefix), PrefixRows(rows, data.seed)


def _fill_in_the_middle(data: TrainingData) -> LossAndRows:
    from regrow.objectives.losses.causal import Causal
    from regrow.objectives.rows.fill_in_the_middle import infilling_rows

    return Causal(), infilling_rows(data.texts, data.tokenizer, data.row_length, data.seed)


# Denoising: pairs of a source and a target


def _span_corruption(data: TrainingData) -> "CorruptedText":
    from regrow.objectives.rows.span_corruption import corrupt_text

    return corrupt_text(data.texts, data.tokenizer, data.config, data.row_length, data.seed)


def _span_corruption_sample(row_length: int) -> "SampleShape":
    from regrow.objectives.rows.denoisers import SPAN_CORRUPTION
    from regrow.objectives.rows.span_corruption import mean_sample

    return mean_sample(row_length, [SPAN_CORRUPTION])


def _check_span_corruption(tokenizer: Any, config: Any, row_length: int) -> None:
    from regrow.objectives.rows.span_corruption import check_sentinels, denoising_tokens

    check_sentinels(denoising_tokens(tokenizer, config), row_length)


def _widest_span_corruption(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.rows.denoisers import SPAN_CORRUPTION

    return _widest_pair([SPAN_CORRUPTION], tokenizer, config, row_length)


def _widest_ul2(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.rows.denoisers import UL2

    return _widest_pair(UL2.values(), tokenizer, config, row_length)


def _widest_pair(
    denoisers: "Collection[Denoiser]", tokenizer: Any, config: Any, row_length: int
) -> int:
    from regrow.objectives.rows.span_corruption import denoising_tokens, widest_row

    tokens = denoising_tokens(tokenizer, config)
    return widest_row(row_length, denoisers, tokens, in_one_row=not config.is_encoder_decoder)


def _ul2(data: TrainingData) -> "MixedDenoisers":
    from regrow.objectives.rows.ul2 import mix_denoisers

    return mix_denoisers(data.texts, data.tokenizer, data.config, data.row_length, data.seed)


def _ul2_sample(row_length: int) -> "SampleShape":
    from regrow.objectives.rows.denoisers import UL2
    from regrow.objectives.rows.span_corruption import mean_sample

    return mean_sample(row_length, UL2.values())


def _check_ul2(tokenizer: Any, config: Any, row_length: int) -> None:
    from regrow.objectives.rows.span_corruption import denoising_tokens
    from regrow.objectives.rows.ul2 import check_ul2_sentinels

    check_ul2_sentinels(denoising_tokens(tokenizer, config), row_length)


def _in_one_row(make_pairs: MakePairs) -> MakeLossAndRows:
    """For a decoder: each source and its target one after the other in one row."""

    def make(data: TrainingData) -> LossAndRows:
        from regrow.objectives.losses.prefix_lm import PrefixLM
        from regrow.objectives.rows.single_row import ConcatenatedPairs
        from regrow.objectives.rows.span_corruption import denoising_tokens

        pairs = make_pairs(data)
        tokens = denoising_tokens(data.tokenizer, data.config)
        return PrefixLM(data.prefix), ConcatenatedPairs(pairs, tokens.start, tokens.pad)

    return make


def _in_two_rows(make_pairs: MakePairs) -> MakeLossAndRows:
    """For an encoder-decoder: sources in the encoder's rows, and targets in the decoder's."""

    def make(data: TrainingData) -> LossAndRows:
        from regrow.objectives.pairs import pair_loss_and_rows

        pairs = make_pairs(data)
        return pair_loss_and_rows(
            pairs, pairs.windows.text_tokens, data.config, data.seed, shared_rows=data.shared_rows
        )

    return make


# Optimized-UL2


def _optimized_sample(row_length: int) -> "SampleShape":
    from regrow.objectives.rows.optimized_ul2 import mean_sample

    return mean_sample(row_length)


def _optimized_lengths(tokenizer: Any, config: Any, row_length: int) -> "FixedLengths":
    from regrow.objectives.rows.optimized_ul2 import fixed_lengths
    from regrow.objectives.rows.span_corruption import denoising_tokens

    return fixed_lengths(len(denoising_tokens(tokenizer, config).sentinels), row_length)


def _check_optimized(tokenizer: Any, config: Any, row_length: int) -> None:
    _optimized_lengths(tokenizer, config, row_length)


def _optimized_minimum(tokenizer: Any, config: Any, row_length: int) -> int:
    return _optimized_lengths(tokenizer, config, row_length).split_text


def _widest_optimized(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.rows.optimized_ul2 import widths_of_row
    from regrow.objectives.rows.span_corruption import denoising_tokens

    tokens = denoising_tokens(tokenizer, config)
    lengths = _optimized_lengths(tokenizer, config, row_length)
    return max(widths_of_row(lengths, tokens, in_one_row=not config.is_encoder_decoder))


def _optimized_for_decoder(data: TrainingData) -> LossAndRows:
    from regrow.objectives.losses.prefix_lm import PrefixLM
    from regrow.objectives.rows.optimized_ul2 import optimized_ul2_rows

    return PrefixLM(data.prefix), optimized_ul2_rows(
        data.texts, data.tokenizer, data.config, data.row_length, data.seed, "single row"
    )


def _optimized_for_encoder_decoder(data: TrainingData) -> LossAndRows:
    from regrow.objectives.losses.seq2seq import Seq2Seq
    from regrow.objectives.rows.optimized_ul2 import optimized_ul2_rows

    return Seq2Seq(shared_rows=data.shared_rows), optimized_ul2_rows(
        data.texts, data.tokenizer, data.config, data.row_length, data.seed,
        "row pair" if data.shared_rows else "across documents",
    )  # fmt: skip


# Conversations, of which the answers are predicted


def _conversation_sample(row_length: int) -> "SampleShape":
    from regrow.architectures.flops import SampleShape

    # How long prompts are beside their answers depends on the data.
    half = -(-row_length // 2)
    return SampleShape(row_length, encoder=half, decoder=half)


def _check_prompt_form(tokenizer: Any, config: Any, row_length: int) -> None:
    from regrow.objectives.prompt_form import prompt_form

    prompt_form(tokenizer, config)


def _answers(data: TrainingData) -> LossAndRows:
    from regrow.corpus.sources import Corpus
    from regrow.objectives.answers import answer_loss_and_rows
    from regrow.objectives.conversations import prepare_conversations

    texts = data.texts
    documents = texts.read(texts.paths) if isinstance(texts, Corpus) else texts
    found = prepare_conversations(documents, data.tokenizer, data.config, data.row_length)
    return answer_loss_and_rows(
        found.answers, data.config, data.seed, prefix=data.prefix, shared_rows=data.shared_rows
    )


_UL2 = Objective(
    mean_sample=_ul2_sample,
    check=_check_ul2,
    widest_row=_widest_ul2,
    for_decoder=_in_one_row(_ul2),
    for_encoder_decoder=_in_two_rows(_ul2),
    has_prefix=True,
    missing_tokens=(missing_sentinels, missing_prefixes),
)

OBJECTIVES: Mapping[str, Objective] = {
    "causal": Objective(
        mean_sample=_text_alone,
        check=_check_ends,
        minimum_tokens=_one_row,
        for_decoder=_causal,
    ),
    "prefix-lm": Objective(
        mean_sample=_text_alone,
        check=_check_ends,
        minimum_tokens=_one_row,
        for_decoder=_prefix_lm,
        has_prefix=True,
    ),
    "fill-in-the-middle": Objective(
        mean_sample=_text_alone,
        check=_check_infilling,
        minimum_tokens=_one_row,
        for_decoder=_fill_in_the_middle,
        missing_tokens=(missing_infilling_tokens,),
    ),
    "span-corruption": Objective(
        mean_sample=_span_corruption_sample,
        check=_check_span_corruption,
        widest_row=_widest_span_corruption,
        for_decoder=_in_one_row(_span_corruption),
        for_encoder_decoder=_in_two_rows(_span_corruption),
        has_prefix=True,
        missing_tokens=(missing_sentinels,),
    ),
    "ul2": _UL2,
    # The same rows. The training loop changes the shares of the denoisers as it goes on.
    "d-ul2": replace(_UL2, mixes_denoisers=True),
    "o-ul2": Objective(
        mean_sample=_optimized_sample,
        check=_check_optimized,
        minimum_tokens=_optimized_minimum,
        widest_row=_widest_optimized,
        for_decoder=_optimized_for_decoder,
        for_encoder_decoder=_optimized_for_encoder_decoder,
        has_prefix=True,
        missing_tokens=(missing_sentinels, missing_prefixes),
    ),
    "instructions": Objective(
        mean_sample=_conversation_sample,
        check=_check_prompt_form,
        for_decoder=_answers,
        for_encoder_decoder=_answers,
        has_prefix=True,
        reads_conversations=True,
    ),
}
"""The first that fits a kind of model is the default of this kind."""


def objective_names(*, is_encoder_decoder: bool) -> tuple[str, ...]:
    """The objectives for one kind of model, the default first."""
    return tuple(
        name
        for name, each in OBJECTIVES.items()
        if _maker(each, is_encoder_decoder=is_encoder_decoder) is not None
    )


def _maker(objective: Objective, *, is_encoder_decoder: bool) -> MakeLossAndRows | None:
    return objective.for_encoder_decoder if is_encoder_decoder else objective.for_decoder


def objective_name(named: str | None, *, is_encoder_decoder: bool) -> str:
    """The objective that is named, or the default of this kind of model for None.

    Raises UserError if a model of this kind cannot learn it.
    """
    names = objective_names(is_encoder_decoder=is_encoder_decoder)
    if named is None:
        return names[0]
    if named not in names:
        kind = "an encoder-decoder" if is_encoder_decoder else "a decoder"
        raise UserError(f"{named} is not for {kind}; give one of {', '.join(names)}")
    return named


def _objective(named: str | None, config: Any) -> Objective:
    """The objective that is named, or the default for a model with this config.

    Raises UserError if such a model cannot learn it.
    """
    return OBJECTIVES[objective_name(named, is_encoder_decoder=bool(config.is_encoder_decoder))]


def reads_conversations(named: str | None) -> bool:
    """Whether an objective learns the answers of conversations; the defaults (None) do not."""
    return named is not None and OBJECTIVES[named].reads_conversations


def mixes_denoisers(named: str | None) -> bool:
    """Whether the shares of denoisers follow their losses; those of the defaults (None) do not."""
    return named is not None and OBJECTIVES[named].mixes_denoisers


def missing_tokens(name: str, tokenizer: Any) -> tuple[str, ...]:
    """The special tokens that have to be added to a tokenizer for an objective, in order."""
    return tuple(
        token for missing in OBJECTIVES[name].missing_tokens for token in missing(tokenizer)
    )


def check_objective(named: str | None, tokenizer: Any, config: Any, row_length: int) -> None:
    """Raise UserError if the model, the tokenizer or the row length does not fit an objective."""
    _objective(named, config).check(tokenizer, config, row_length)


def minimum_tokens(named: str | None, tokenizer: Any, config: Any, row_length: int) -> int:
    """The fewest tokens of text that are enough to train on, in rows of this length.

    For what `check_objective` accepts.
    """
    return _objective(named, config).minimum_tokens(tokenizer, config, row_length)


def widest_row(named: str | None, tokenizer: Any, config: Any, row_length: int) -> int:
    """The most slots of a row that holds at most `row_length` tokens of text.

    For what `check_objective` accepts. Of sources and targets in rows of their own, the longer.
    """
    return _objective(named, config).widest_row(tokenizer, config, row_length)


def loss_and_rows(named: str | None, data: TrainingData) -> LossAndRows:
    """The loss of an objective, and the rows that it is computed on.

    `named`: the objective; None for the default of this kind of model. `data`: the text, and the
    model and row length that it is prepared for.

    Raises UserError if the objective, the text or the tokenizer does not fit.
    """
    make = _maker(
        _objective(named, data.config), is_encoder_decoder=bool(data.config.is_encoder_decoder)
    )
    assert make is not None
    return make(data)
