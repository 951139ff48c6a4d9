"""What `regrow corpus build` is told: the keys of its configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator
from pydantic import model_validator as validates

from regrow.cleaning.document import Step
from regrow.common.fields import Fraction, Share, Size, Strict
from regrow.common.validation_errors import describe, dotted, first_error, near_key

Format = Literal["jsonl", "parquet", "text", "html", "warc"]

_NEAR_ONE = 1e-6


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_list), Field(min_length=1)]
"""One path, or a list of paths; each a file, a directory, or a pattern such as `*.jsonl.gz`."""


class CorpusSource(Strict):
    """A part of the raw text.

    Attributes:
        name: The name of the source, in the documents and in the report.
        path: Its files: a path, a directory, a pattern, or several of them.
        dataset: In place of `path`, a directory that the library datasets has saved, or the name of
            a data set of the Hugging Face Hub.
        subset: The configuration of the data set.
        split: The split of the data set.
        format: How the files are read. By default the suffix of each file says it.
        text: The key or the column that holds the text.
        share: The share of the corpus that the source is to have. All sources have one, or none.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    path: Paths | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    format: Format | None = None
    text: Annotated[str, Field(min_length=1)] = "text"
    share: Share | None = None

    @validates(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("a source has either a path or a dataset")
        if self.path is not None and (self.subset is not None or self.split != "train"):
            raise ValueError("subset and split are of a dataset; this source has a path")
        if self.dataset is not None and self.format is not None:
            raise ValueError("format is how files are read; this source is a dataset")
        return self


class Near(Strict):
    """How near-duplicates are found.

    Attributes:
        threshold: A document goes if so large a share of the n-grams of both documents is common
            to it and to an earlier document that stays (the Jaccard similarity, estimated).
        ngram: Words in an n-gram; in Chinese and other scripts without spaces, characters.
    """

    threshold: Annotated[Fraction, Field(ge=0.3, le=1)] = 0.5
    ngram: Annotated[Size, Field(le=64)] = 5


class Paragraphs(Strict):
    """How repeated paragraphs are found.

    Attributes:
        least: Paragraphs of fewer characters stay.
    """

    least: Size = 50


class Duplicates(Strict):
    """Which duplicates are removed; the first one in the order of the sources stays.

    Attributes:
        exact: Documents that are equal apart from case, white space, and forms of characters.
        near: Documents that are nearly equal; true takes the defaults of its settings.
        paragraphs: Lines of text that an earlier document, or an earlier place, has too.
        sentences: Runs of this many consecutive sentences that stood before; from 1 to 99.
    """

    exact: bool = True
    near: Near | bool = Near()
    paragraphs: Paragraphs | bool = False
    sentences: Annotated[Size, Field(le=99)] | None = None

    @field_validator("near", "paragraphs")
    @classmethod
    def _with_defaults(cls, value: Any, info: Any) -> Any:
        if value is True:
            return Near() if info.field_name == "near" else Paragraphs()
        return value


class Contamination(Strict):
    """Benchmark questions that must not be in the corpus.

    Attributes:
        against: Files with the questions: `.jsonl`, `.json`, `.csv`, `.tsv`, `.txt`, `.parquet`,
            also compressed as `.gz` or `.zst`. All texts in them count.
        ngram: A document goes if it has so many consecutive words of a question.
        ngram_characters: The same in Chinese and other scripts without spaces, in characters.
    """

    against: Paths
    ngram: Annotated[Size, Field(ge=4, le=64)] = 13
    ngram_characters: Annotated[Size, Field(ge=8, le=128)] = 26


def made_step(written: Any) -> Step:
    """A step as a configuration writes it: its name, or its name with settings.

    Raises ValueError, for pydantic, if there is none of this name, or a setting is not valid.
    """
    from regrow.cleaning.steps import STEPS

    if isinstance(written, BaseModel) and hasattr(written, "apply"):
        return written  # type: ignore[return-value]
    settings: Any = {}
    if isinstance(written, Mapping) and len(written) == 1:
        ((written, settings),) = written.items()
    if not isinstance(written, str):
        raise ValueError("a step is its name, or its name and its settings: {name: {key: value}}")
    if written not in STEPS:
        raise ValueError(f"there is no step {written!r}; the steps are {', '.join(STEPS)}")
    kind = STEPS[written]
    try:
        return kind.model_validate(settings or {})
    except ValidationError as error:
        place, wrong = first_error(error, settings)
        if wrong["type"] == "extra_forbidden":
            raise ValueError(
                f"{written}: {dotted(place)}: unknown key{near_key(kind, place)}"
            ) from None
        at = f"{dotted(place)}: " if place else ""
        raise ValueError(f"{written}: {at}{describe(wrong)}") from None


class CorpusConfig(Strict):
    """A corpus to build from raw text.

    Attributes:
        out: The new directory for the corpus.
        sources: Where the raw text comes from, in order.
        steps: The steps of cleaning, in order: a name, or a name with settings.
        duplicates: Which duplicates are removed.
        contamination: Which benchmark questions are removed.
        tokens: The size of the corpus in tokens of `tokenise`.
        characters: The size of the corpus in characters.
        documents: The size of the corpus in documents.
        shards: In how many files the documents are written, if there are as many documents. By
            default about 1 GB each.
        compress: `gz` or `zst`.
        tokenise: A model, whose tokenizer also makes the token store `tokens` of the corpus.
    """

    out: Path
    sources: Annotated[tuple[CorpusSource, ...], Field(min_length=1, max_length=1000)]
    steps: tuple[Annotated[Any, BeforeValidator(made_step)], ...] = ()
    duplicates: Duplicates = Duplicates()
    contamination: Contamination | None = None
    tokens: Size | None = None
    characters: Size | None = None
    documents: Size | None = None
    shards: Annotated[Size, Field(le=100_000)] | None = None
    compress: Literal["gz", "zst"] | None = None
    tokenise: str | None = None

    @validates(mode="after")
    def _fit_together(self) -> Self:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name!r}; give each a name of its own")
        shares = [source.share for source in self.sources if source.share is not None]
        if shares and len(shares) < len(self.sources):
            raise ValueError("give a share to each source, or to none")
        if shares and abs(sum(shares) - 1) > _NEAR_ONE:
            raise ValueError(f"the shares of the sources add up to {sum(shares):.4g}, not to 1")
        sizes = [key for key in ("tokens", "characters", "documents") if getattr(self, key)]
        if len(sizes) > 1:
            raise ValueError(f"the size is given twice, as {sizes[0]} and {sizes[1]}; keep one")
        if self.tokens is not None and self.tokenise is None:
            raise ValueError("tokens are counted with the tokenizer of a model; set tokenise")
        return self

    @property
    def has_shares(self) -> bool:
        """Whether the sources have shares."""
        return self.sources[0].share is not None
