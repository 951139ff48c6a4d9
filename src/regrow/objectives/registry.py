"""All training objectives by name. An objective is one entry of `OBJECTIVES`.

To add an objective, write its rows (`regrow.objectives.rows`) or its loss
(`regrow.objectives.losses`) and add an entry here. Settings, checks, costs and training take all
they need to know from the entry.

Importing this module imports neither PyTorch nor NumPy, so that a recipe can be read without them.
The functions of the entries import what they need when they are called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    from regrow.objectives.rows.optimized_ul2 import RowLayout
    from regrow.objectives.rows.prompt_answers import Answers
    from regrow.objectives.rows.span_corruption import CorruptedText
    from regrow.objectives.rows.ul2 import MixedDenoisers


INSTRUCTIONS = "instructions"
"""The objective that learns the answers of conversations."""


@dataclass(frozen=True)
class TrainingData:
    """The text of a training, and how it is turned into rows.

    Attributes:
        texts: Documents, token stores, or a mixture of sources.
        tokenizer: The model's tokenizer.
        config: The model's config, which names the token that a decoder begins with.
        row_length: Upper bound on the text tokens in a row.
        seed: Decides all random choices for a sample.
    """

    texts: "Texts"
    tokenizer: Any
    config: Any
    row_length: int
    seed: int


LossAndRows = tuple["TokenLoss", "Samples"]
"""What is minimised, and the rows that it is computed on."""
ForDecoder = Callable[[TrainingData, "PrefixAttention"], LossAndRows]
"""(data, attention within the prefix of a row) -> loss and rows."""
ForEncoderDecoder = Callable[[TrainingData, bool], LossAndRows]
"""(data, whether several examples share a row) -> loss and rows."""
Pairs = Callable[[TrainingData], "CorruptedText | MixedDenoisers"]
"""data -> samples that are a source and a target each."""


@dataclass(frozen=True)
class Objective:
    """What a model can be trained to predict.

    Attributes:
        mean_sample: Row length -> shape of the mean sample, from which training costs are
            computed. For a source and a target, it is their shape in an encoder-decoder.
        minimum_tokens: (tokenizer, config, row length) -> the fewest tokens of text that are enough
            to train on. Raises UserError if the tokenizer or the row length does not fit.
        for_decoder: Loss and rows for a decoder-only model; None if it cannot learn this.
        for_encoder_decoder: The same for an encoder-decoder.
        missing_tokens: One function for each kind of special token that examples are written with.
            It gives the tokens of this kind that have to be added to a tokenizer.
        reads_conversations: Whether it learns the answers of conversations, and no text.
    """

    mean_sample: "Callable[[int], SampleShape]"
    minimum_tokens: Callable[[Any, Any, int], int]
    for_decoder: ForDecoder | None = None
    for_encoder_decoder: ForEncoderDecoder | None = None
    missing_tokens: tuple[Callable[[Any], tuple[str, ...]], ...] = ()
    reads_conversations: bool = False


# Next-token prediction, with or without a prefix


def _text_alone(row_length: int) -> "SampleShape":
    from regrow.architectures.flops import SampleShape

    return SampleShape(row_length, decoder=row_length)


def _one_row(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.corpus.packing import start_and_end

    start_and_end(tokenizer)
    return row_length


def _one_infilling_row(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.rows.fill_in_the_middle import infilling_tokens

    infilling_tokens(tokenizer)
    return _one_row(tokenizer, config, row_length)


def _causal(data: TrainingData, prefix: "PrefixAttention") -> LossAndRows:
    from regrow.corpus.sources import packed
    from regrow.objectives.losses.causal import Causal

    return Causal(), packed(data.texts, data.tokenizer, data.row_length)


def _prefix_lm(data: TrainingData, prefix: "PrefixAttention") -> LossAndRows:
    from regrow.corpus.sources import packed
    from regrow.objectives.losses.prefix_lm import PrefixLM
    from regrow.objectives.rows.single_row import PrefixRows

    rows = packed(data.texts, data.tokenizer, data.row_length)
    return PrefixLM(prefix), PrefixRows(rows, data.seed)


def _fill_in_the_middle(data: TrainingData, prefix: "PrefixAttention") -> LossAndRows:
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


def _span_corruption_minimum(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.rows.span_corruption import check_sentinels, denoising_tokens

    check_sentinels(denoising_tokens(tokenizer, config), row_length)
    return 1


def _ul2(data: TrainingData) -> "MixedDenoisers":
    from regrow.objectives.rows.ul2 import mix_denoisers

    return mix_denoisers(data.texts, data.tokenizer, data.config, data.row_length, data.seed)


def _ul2_sample(row_length: int) -> "SampleShape":
    from regrow.objectives.rows.denoisers import UL2
    from regrow.objectives.rows.span_corruption import mean_sample

    return mean_sample(row_length, UL2.values())


def _ul2_minimum(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.rows.span_corruption import denoising_tokens
    from regrow.objectives.rows.ul2 import check_ul2_sentinels

    check_ul2_sentinels(denoising_tokens(tokenizer, config), row_length)
    return 1


def _pairs_for_decoder(pairs: Pairs) -> ForDecoder:
    """Each source and its target one after the other in one row."""

    def make(data: TrainingData, prefix: "PrefixAttention") -> LossAndRows:
        from regrow.objectives.losses.prefix_lm import PrefixLM
        from regrow.objectives.rows.single_row import ConcatenatedPairs
        from regrow.objectives.rows.span_corruption import denoising_tokens

        rows = pairs(data)
        tokens = denoising_tokens(data.tokenizer, data.config)
        return PrefixLM(prefix), ConcatenatedPairs(rows, tokens.start, tokens.pad)

    return make


def _pairs_for_encoder_decoder(pairs: Pairs) -> ForEncoderDecoder:
    """Sources in the encoder's rows, and targets in the decoder's."""

    def make(data: TrainingData, shared_rows: bool) -> LossAndRows:
        from regrow.objectives.losses.seq2seq import Seq2Seq
        from regrow.objectives.rows.shared_rows import make_shared_rows

        rows = pairs(data)
        if not shared_rows:
            return Seq2Seq(), rows
        hidden = getattr(data.config, "decoder", data.config).hidden_size
        shared = make_shared_rows(rows, rows.windows.text_tokens, data.seed, hidden)
        return Seq2Seq(shared_rows=True), shared

    return make


# Optimized-UL2


def _optimized_sample(row_length: int) -> "SampleShape":
    from regrow.objectives.rows.optimized_ul2 import mean_sample

    return mean_sample(row_length)


def _optimized_minimum(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.rows.optimized_ul2 import fixed_lengths
    from regrow.objectives.rows.span_corruption import denoising_tokens

    tokens = denoising_tokens(tokenizer, config)
    return fixed_lengths(len(tokens.sentinels), row_length).split_text


def _optimized_rows(data: TrainingData, layout: "RowLayout") -> "Samples":
    from regrow.objectives.rows.optimized_ul2 import optimized_ul2_rows

    return optimized_ul2_rows(
        data.texts, data.tokenizer, data.config, data.row_length, data.seed, layout
    )


def _optimized_for_decoder(data: TrainingData, prefix: "PrefixAttention") -> LossAndRows:
    from regrow.objectives.losses.prefix_lm import PrefixLM

    return PrefixLM(prefix), _optimized_rows(data, "single row")


def _optimized_for_encoder_decoder(data: TrainingData, shared_rows: bool) -> LossAndRows:
    from regrow.objectives.losses.seq2seq import Seq2Seq

    layout: RowLayout = "row pair" if shared_rows else "across documents"
    return Seq2Seq(shared_rows=shared_rows), _optimized_rows(data, layout)


# Conversations, of which the answers are predicted


def _conversation_sample(row_length: int) -> "SampleShape":
    from regrow.architectures.flops import SampleShape

    # How long prompts are beside their answers depends on the data.
    half = -(-row_length // 2)
    return SampleShape(row_length, encoder=half, decoder=half)


def _one_conversation(tokenizer: Any, config: Any, row_length: int) -> int:
    from regrow.objectives.prompt_form import prompt_form

    prompt_form(tokenizer, config)
    return 1


def _answers_for_decoder(data: TrainingData, prefix: "PrefixAttention") -> LossAndRows:
    from regrow.objectives.answers import answer_loss_and_rows

    return answer_loss_and_rows(_prepared(data), data.config, data.seed, prefix=prefix)


def _answers_for_encoder_decoder(data: TrainingData, shared_rows: bool) -> LossAndRows:
    from regrow.objectives.answers import answer_loss_and_rows

    return answer_loss_and_rows(_prepared(data), data.config, data.seed, shared_rows=shared_rows)


def _prepared(data: TrainingData) -> "Answers":
    from regrow.corpus.sources import Corpus
    from regrow.objectives.conversations import prepare_conversations

    texts = data.texts
    documents = texts.read(texts.paths) if isinstance(texts, Corpus) else texts
    return prepare_conversations(documents, data.tokenizer, data.config, data.row_length).answers


_UL2 = Objective(
    mean_sample=_ul2_sample,
    minimum_tokens=_ul2_minimum,
    for_decoder=_pairs_for_decoder(_ul2),
    for_encoder_decoder=_pairs_for_encoder_decoder(_ul2),
    missing_tokens=(missing_sentinels, missing_prefixes),
)

OBJECTIVES: Mapping[str, Objective] = {
    "causal": Objective(
        mean_sample=_text_alone,
        minimum_tokens=_one_row,
        for_decoder=_causal,
    ),
    "prefix-lm": Objective(
        mean_sample=_text_alone,
        minimum_tokens=_one_row,
        for_decoder=_prefix_lm,
    ),
    "fill-in-the-middle": Objective(
        mean_sample=_text_alone,
        minimum_tokens=_one_infilling_row,
        for_decoder=_fill_in_the_middle,
        missing_tokens=(missing_infilling_tokens,),
    ),
    "span-corruption": Objective(
        mean_sample=_span_corruption_sample,
        minimum_tokens=_span_corruption_minimum,
        for_decoder=_pairs_for_decoder(_span_corruption),
        for_encoder_decoder=_pairs_for_encoder_decoder(_span_corruption),
        missing_tokens=(missing_sentinels,),
    ),
    "ul2": _UL2,
    # The same rows. The training loop changes the shares of the denoisers as it goes on.
    "d-ul2": _UL2,
    "o-ul2": Objective(
        mean_sample=_optimized_sample,
        minimum_tokens=_optimized_minimum,
        for_decoder=_optimized_for_decoder,
        for_encoder_decoder=_optimized_for_encoder_decoder,
        missing_tokens=(missing_sentinels, missing_prefixes),
    ),
    INSTRUCTIONS: Objective(
        mean_sample=_conversation_sample,
        minimum_tokens=_one_conversation,
        for_decoder=_answers_for_decoder,
        for_encoder_decoder=_answers_for_encoder_decoder,
        reads_conversations=True,
    ),
}
"""The first that fits a kind of model is the default of this kind."""


def objective_names(*, is_encoder_decoder: bool) -> tuple[str, ...]:
    """The objectives for one kind of model, the default first."""
    return tuple(
        name
        for name, each in OBJECTIVES.items()
        if (each.for_encoder_decoder if is_encoder_decoder else each.for_decoder) is not None
    )


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


def missing_tokens(name: str, tokenizer: Any) -> tuple[str, ...]:
    """The special tokens that have to be added to a tokenizer for an objective, in order."""
    return tuple(
        token for missing in OBJECTIVES[name].missing_tokens for token in missing(tokenizer)
    )


def minimum_tokens(named: str | None, tokenizer: Any, config: Any, row_length: int) -> int:
    """The fewest tokens of text that are enough to train on, in rows of this length.

    Raises UserError if the objective, the tokenizer or the row length does not fit.
    """
    name = objective_name(named, is_encoder_decoder=bool(config.is_encoder_decoder))
    return OBJECTIVES[name].minimum_tokens(tokenizer, config, row_length)


def loss_and_rows(
    named: str | None,
    data: TrainingData,
    *,
    prefix: "PrefixAttention" = "causal",
    shared_rows: bool = False,
) -> LossAndRows:
    """The loss of an objective, and the rows that it is computed on.

    Args:
        named: The objective; None for the default of this kind of model.
        data: The text, and the model and row length that it is prepared for.
        prefix: How a decoder attends within the prefix of a row. Encoder-decoders ignore it.
        shared_rows: Whether several examples of an encoder-decoder share a row. Decoders ignore
            it.

    Raises:
        UserError: the objective, the text or the tokenizer does not fit.
    """
    is_encoder_decoder = bool(data.config.is_encoder_decoder)
    objective = OBJECTIVES[objective_name(named, is_encoder_decoder=is_encoder_decoder)]
    if is_encoder_decoder:
        assert objective.for_encoder_decoder is not None
        return objective.for_encoder_decoder(data, shared_rows)
    assert objective.for_decoder is not None
    return objective.for_decoder(data, prefix)
