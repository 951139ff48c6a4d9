"""The keyword options of the functions, for type checkers and editors.

Each has the keys of the pydantic model that it names, which checks them. A test compares the two.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

Number = int | str
"""An integer, or text such as `"16_384"`, `"16K"` or `"3.4B"`."""

SizeByStack = Number | Mapping[str, Number]
Layers = str | int | Sequence[int | str]


class PlanOptions(TypedDict, total=False):
    """`regrow.pipeline.plan_spec.PlanSpec`."""

    params: Number
    bytes: Number
    tokens_per_second: float
    calibration_tokens: Number
    candidates: int
    seed: int
    special_tokens: bool


class CutOptions(TypedDict, total=False):
    """`regrow.surgery.cut_spec.CutSpec`."""

    layers: SizeByStack | None
    drop_layers: Layers | Mapping[str, Layers] | None
    hidden: SizeByStack | None
    ffn: SizeByStack | None
    heads: SizeByStack | None
    kv_heads: SizeByStack | None
    experts: SizeByStack | None
    vocab_size: Number | None
    vocab: Mapping[str, Any] | None
    by: str | Callable[..., Any] | None
    scores: Path | str | None
    refit: bool | None
    refit_passes: Number
    rotate: bool | None
    calibration_tokens: Number
    cut: Path | str | None


class PruneOptions(CutOptions, total=False):
    """Those of a cut, and how its calibration text is read."""

    special_tokens: bool


class ScoreOptions(TypedDict, total=False):
    """`regrow.scoring.score_file.ScoreSpec`."""

    by: str | None
    axes: str | Sequence[str] | None
    calibration_tokens: Number


class VocabularyOptions(TypedDict, total=False):
    """`regrow.vocabulary.vocabulary_spec.VocabularySpec`, without `counts` and what plans are."""

    size: Number | None
    coverage: float | str | None
    only: str | Sequence[str]
    minimum: Number | None
    keep: Path | str | Sequence[str]
    drop: Path | str | Sequence[str]
    characters: bool


class MergeOptions(TypedDict, total=False):
    """`regrow.surgery.grow_vocabulary.MergeLimits`."""

    max_tokens: Number
    min_count: Number


class WritingOptions(TypedDict, total=False):
    """`regrow.writing.text_writer.WritingSettings`, without `tokens` and `prompts`."""

    seed: int
    temperature: float
    batch_size: int | None
    languages: str | Sequence[str] | None
