"""Check a recipe against its model and texts, before hours of work."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.packing import tokenise
from regrow.corpus.put_aside import LEAST
from regrow.corpus.reading import CONVERSATIONS, PLAIN_TEXT, Reading
from regrow.corpus.shares import DOMAIN
from regrow.corpus.sources import Corpus
from regrow.corpus.text import read_documents
from regrow.corpus.token_store import is_store, open_store
from regrow.objectives.registry import (
    check_objective,
    minimum_tokens,
    missing_tokens,
    objective_name,
    widest_row,
)
from regrow.objectives.special_tokens import missing_sentinels
from regrow.pipeline.recipe import Data, Recipe, Stage
from regrow.pipeline.run_stage import RunStage
from regrow.surgery.choose_cut import least_counted
from regrow.training.mixing.mixture_settings import MixtureSettings
from regrow.training.open_mixtures import check_mixture_texts
from regrow.training.settings import RecoverySettings
from regrow.training.tracking import check_tools

_MARGIN = 4
"""Half of the documents that the original writes are counted, and documents differ in length."""


def check_apart(out: Path, model: Path) -> None:
    """Raise UserError if the run's directory `out` lies inside the directory of its model."""
    inner, outer = out.resolve(), model.resolve()
    if inner == outer or outer in inner.parents:
        raise UserError(f"{out}: lies inside the model {model}; choose a place outside it")


def check_readable(recipe: Recipe) -> None:
    """Raise UserError, with the key, if a text cannot be read or is empty, or not be written."""
    data, reading = recipe.data, recipe.reading
    check_languages(data)
    named = [("data.train", path, reading) for path in data.train_paths]
    named += [(f"data.heldout.{name}", path, reading) for name, path in data.heldout.items()]
    if data.written is not None and data.written.prompts is not None:
        key = f"data.train: {data.written.name}.prompts"
        named.append((key, data.written.prompts, PLAIN_TEXT))
    for stage in recipe.stages:
        if (own := stage.data) is not None:
            key = f"stages: {stage.name}: data"
            named += [(f"{key}.train", path, CONVERSATIONS) for path in own.train]
            named += [
                (f"{key}.heldout.{name}", path, CONVERSATIONS) for name, path in own.heldout.items()
            ]
    for key, path, how in named:
        try:
            if key == "data.train" and is_store(path) and not how.conversations:
                has_text = len(open_store(path).tokens) > 0
            else:
                has_text = any(document.strip() for document in read_documents(path, how))
        except UserError as error:
            raise UserError(str(error), key=key) from None
        if not has_text:
            raise UserError(f"{path}: no text", key=key)


def short_heldout_lines(data: Data, reading: Reading) -> Iterator[str]:
    """A line for each held-out text that is shorter than a part that is put aside."""
    for name, path in data.heldout.items():
        characters = 0
        for document in read_documents(path, reading):
            characters += len(document)
            if characters >= LEAST:
                break
        else:
            yield (
                f"data.heldout.{name}: {path} has {characters} characters; the loss on so little "
                f"text cannot tell whether a recovery helped, so give at least {LEAST}"
            )


def check_languages(data: Data) -> None:
    """Raise UserError, with the key, if written text cannot be kept to its languages."""
    from regrow.writing.filters import language_filter

    if data.written is not None:
        try:
            language_filter(data.written.languages)
        except UserError as error:
            raise error.within(f"data.train: {data.written.name}.") from None


def check_written(data: Data, model: ModelDirectory) -> None:
    """Raise UserError, with the key, if a model that should write training text cannot."""
    from regrow.writing.text_writer import form_and_starts

    if data.written is not None:
        try:
            form_and_starts(model, data.written.prompts)
        except UserError as error:
            raise error.within(f"data.train: {data.written.name}.") from None


def missing_special_tokens(
    recipe: Recipe, tokenizer: Any, *, is_encoder_decoder: bool
) -> tuple[str, ...]:
    """The special tokens that a run must add to the tokenizer of the original, in order.

    An encoder-decoder is measured on text by span corruption, so it needs sentinels with any
    objective.

    Raises UserError, with the stage, if an objective does not fit the model.
    """
    measures_text = is_encoder_decoder and not recipe.reads_conversations
    found = [*missing_sentinels(tokenizer)] if measures_text else []
    for stage in recipe.stages:
        if stage.recover is not None:
            where = f"stages: {stage.name}: recover"
            name = _objective(where, stage.recover, is_encoder_decoder=is_encoder_decoder)
            found += missing_tokens(name, tokenizer)
    return tuple(dict.fromkeys(found))


def check_corpus(
    corpus: Corpus, tokenizer: Any, stages: Iterable[RunStage], vocabulary: int
) -> None:
    """Raise UserError if the shares of sources are not possible, or a token store does not fit.

    A store fits only stages whose model has the vocabulary of the original.

    `tokenizer`, `vocabulary`: of the original.
    """
    try:
        corpus.check(tokenizer)
    except UserError as error:
        raise UserError(str(error), key="data.train") from None
    for stage in stages if corpus.stores else ():
        if stage.spec.recover is not None and stage.vocabulary != vocabulary:
            raise UserError(
                f"{corpus.stores[0]}: a token store, whose tokens the model no longer has when "
                f"{stage.name} trains it, after vocab_size was cut; give its text, or cut "
                "vocab_size after all that trains",
                key="data.train",
            )


def check_counted(corpus: Corpus, tokenizer: Any, stages: Iterable[Stage]) -> None:
    """Raise UserError if too little text is counted to choose a vocabulary.

    `corpus`: the training text. `tokenizer`: of the original.
    """
    least = max((least_counted(each.cut) for each in stages if each.cut is not None), default=0)
    if not least:
        return
    if corpus.given is None:
        least *= _MARGIN
        (source,) = corpus.sources
        if (source.tokens or 0) < least:
            raise UserError(
                f"{source.tokens:,} tokens are too few to choose a vocabulary, since half of what "
                f"the original writes is counted; give at least {least:,}",
                key="data.train",
            )
        return
    tokens = 0
    for ids in tokenise(corpus.counted_documents(tokenizer), tokenizer):
        tokens += len(ids)
        if tokens >= least:
            return
    rest = ", and what the original writes is not counted" if corpus.written else ""
    raise UserError(
        f"{tokens:,} tokens are too few to choose a vocabulary{rest}; give at least {least:,}, or "
        "counts (`vocab`)",
        key="data.train",
    )


def check_tasks(
    recipe: Recipe, tokenizer: Any, config: Any, corpus: Corpus, put_aside: Collection[str]
) -> None:
    """Raise UserError, with the stage, if an objective does not fit the model or the text.

    `config`: of the original. `corpus`: the training text. `put_aside`: the names of held-out texts
    that are parts of the training text.
    """
    stage_by_tokens: dict[int, str] = {}
    for stage in recipe.stages:
        settings = stage.recover
        if settings is None:
            continue
        where = f"stages: {stage.name}: recover"
        is_encoder_decoder = bool(config.is_encoder_decoder)
        name = _objective(where, settings, is_encoder_decoder=is_encoder_decoder)
        try:
            settings.check_kind(name, is_encoder_decoder=is_encoder_decoder)
            check_tools(settings.track)
            check_objective(settings.objective, tokenizer, config, settings.row_length)
        except UserError as error:
            raise error.within(f"{where}.") from None
        heldout = recipe.heldout_of(stage.name)
        if not heldout.keys() & put_aside:  # what is put aside may not be written yet
            domains = [source.name for source in recipe.data.sources]
            try:
                check_mixture_texts(settings, tokenizer, config, heldout, domains)
            except UserError as error:
                raise error.within(f"{where}: ") from None
        tokens = minimum_tokens(settings.objective, tokenizer, config, settings.row_length)
        stage_by_tokens.setdefault(tokens, stage.name)
    _check_length(stage_by_tokens, tokenizer, corpus)


def check_adapters(
    stages: Iterable[Stage], original: ModelDirectory, *, from_scratch: bool
) -> None:
    """Raise UserError, with the stage, if a model cannot be trained by LoRA.

    `from_scratch`: whether its weights are drawn at random.
    """
    from regrow.training.lora import adapted_matrices, check_lora

    for stage in stages:
        lora = None if stage.recover is None else stage.recover.lora
        if lora is None:
            continue
        where = f"stages: {stage.name}: recover."
        if from_scratch:
            raise UserError(
                "freezes weights, and these are drawn at random; leave it out", key=f"{where}lora"
            )
        try:
            check_lora()
            adapted_matrices(original.network, lora)
        except UserError as error:
            raise error.within(where) from None


def check_embedding_rates(stages: Iterable[Stage], why: str) -> None:
    """Raise UserError, with the stage, if embeddings that must be learned stay as they are.

    `why`: they must be learned.
    """
    for stage in stages:
        if stage.recover is not None and stage.recover.embedding_rate == 0:
            raise UserError(
                f"leaves embeddings as they are, and {why}; give more than 0, or leave it out",
                key=f"stages: {stage.name}: recover.embedding_rate",
            )


def check_shared_rows(stages: Iterable[Stage], original: ModelDirectory) -> None:
    """Raise UserError, with the stage, if examples should share rows that cannot be told apart.

    Learned positions are counted along a row, and so across its examples.
    """
    from regrow.objectives.losses.head import learned_positions

    for stage in stages:
        if stage.recover is None or not stage.recover.shared_rows:
            continue
        if learned_positions(original.network) is not None:
            name = type(original.network).__name__
            raise UserError(
                f"the positions of {name} are learned, so its examples cannot share a row; leave "
                "it out",
                key=f"stages: {stage.name}: recover.shared_rows",
            )


def check_positions(stages: Iterable[Stage], original: ModelDirectory, tokenizer: Any) -> None:
    """Raise UserError, with the stage, if rows are longer than the learned positions of the model.

    For what `check_tasks` accepts. `tokenizer`: of the original, with all special tokens.
    """
    from regrow.objectives.losses import head

    config = original.config
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    for stage in stages:
        if known is None or (settings := stage.recover) is None:
            continue
        widest = partial(widest_row, settings.objective, tokenizer, config)
        # A class is built only for what is longer than its config says.
        if max(settings.row_length, widest(settings.row_length)) <= known:
            continue
        try:
            head.check_positions(original.network, settings.row_length, widest)
        except UserError as error:
            raise error.within(f"stages: {stage.name}: recover.") from None


def check_mixtures(recipe: Recipe, stages: Iterable[RunStage], vocabulary: int) -> None:
    """Raise UserError, with the stage, if a mixture lacks the losses that its shares follow.

    `stages`: of the recipe and the comparisons. `vocabulary`: the size of the original's.
    """
    for stage in stages:
        settings = stage.spec.recover
        for kind, mixing in settings.mixtures.items() if settings else ():
            where = f"stages: {stage.name}: recover.{kind}s"
            if kind == DOMAIN:
                _check_domains(where, mixing, recipe.data)
            if mixing.references is None and stage.vocabulary != vocabulary:
                raise UserError(
                    "a loss per token of the original cannot be compared under another vocabulary "
                    f"({stage.vocabulary:,} tokens); give references, or cut vocab_size last",
                    key=where,
                )


def _check_domains(where: str, mixing: MixtureSettings, data: Data) -> None:
    names = [source.name for source in data.sources]
    if len(names) < 2 or any(s.weight is None and s.share_tokens is None for s in data.sources):
        raise UserError(
            "data.train has no shares to begin with; give two sources or more, each with a name, "
            "a path and a weight",
            key=where,
        )
    missing = [name for name in names if name not in data.heldout]
    if missing:
        raise UserError(
            f"data.heldout has no text for {', '.join(missing)}; give one for each source of "
            "data.train, under its name",
            key=where,
        )
    try:
        mixing.check(names)
    except ValueError as error:
        raise UserError(str(error), key=where) from None


def _objective(where: str, settings: RecoverySettings, *, is_encoder_decoder: bool) -> str:
    try:
        return objective_name(settings.objective, is_encoder_decoder=is_encoder_decoder)
    except UserError as error:
        raise UserError(str(error), key=f"{where}.objective") from None


def _check_length(stage_by_tokens: Mapping[int, str], tokenizer: Any, corpus: Corpus) -> None:
    """Raise UserError if a part of the text has fewer tokens than a row.

    `stage_by_tokens`: the numbers of tokens that each part must have, and a stage that needs so
    many.
    """
    longest = max(stage_by_tokens, default=0)
    if longest <= 1:
        return
    for part in corpus.parts():
        tokens = part.tokens_up_to(longest, tokenizer)
        if tokens < longest:
            (source,) = part.sources
            key = f"data.train: {source.name}" if len(corpus.sources) > 1 else "data.train"
            stage = stage_by_tokens[longest]
            is_whole = any(each.paths == source.paths for each in corpus.sources)
            where = "" if is_whole else f"{source.paths[0]}: "
            raise UserError(
                f"{where}{tokens:,} tokens, less than one row of {longest:,} (stages: {stage}: "
                "recover.row_length); give more text or a smaller row_length",
                key=key,
            )
