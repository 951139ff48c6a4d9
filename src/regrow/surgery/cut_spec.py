"""The options of a cut, as users give them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WrapValidator, field_validator, model_validator

from regrow.common.fields import Number, Size, Strict
from regrow.scoring.registry import SCORES, ScoreFunction
from regrow.vocabulary.vocabulary_spec import VocabularySpec


def _to_ranges(value: Any) -> Any:
    """Layer numbers as text; a list of numbers and ranges is joined."""
    given = list(value) if isinstance(value, list | tuple | range) else [value]
    if any(isinstance(each, bool) or not isinstance(each, int | str) for each in given):
        return value
    return ",".join(map(str, given))


SizeByStack = Size | dict[str, Size]
"""The size after the cut: one number, or one for each stack (`{encoder: 10, decoder: 30}`)."""


Layers = Annotated[str, BeforeValidator(_to_ranges)]
"""Layer numbers from 0: `12-15,20`. A single number, or a list of numbers, is read too."""


def _name_or_function(value: Any, check_name: Callable[[Any], Any]) -> Any:
    return value if callable(value) else check_name(value)


if TYPE_CHECKING:
    By = str | ScoreFunction | None
else:
    By = Annotated[Literal[tuple(SCORES)] | None, WrapValidator(_name_or_function)]


class CutSpec(Strict):
    """How much to cut, and by which score. All sizes are those after the cut.

    Attributes:
        layers: Number of layers to keep, chosen by score; or by stack: `{encoder: 8, decoder: 24}`.
        drop_layers: Layers to drop, by number from 0: `12-15,20`.
        hidden: Number of channels of the residual stream to keep (hidden size).
        ffn: Number of neurons of each feed-forward to keep.
        heads: Number of attention heads to keep.
        kv_heads: Number of key-value heads to keep. The query heads of the others go too, unless
            `heads` is given.
        experts: Number of experts of each layer to keep, in a mixture of experts.
        vocab_size: Number of tokens to keep, the most frequent in the text that is counted (see
            `counts` of `vocab`).
        vocab: How the kept tokens are chosen; use it in place of `vocab_size`.
        by: Name of the score, of all axes of the cut: if layers and widths are cut together, only
            `random` scores both. None uses influence for layers and activation for widths, the best
            ones measured (docs/benchmarks.md), and rotates hidden (see `rotate`). In Python it can
            also be a function (`regrow.scoring.registry.ScoreFunction`).
        scores: A file of scores that `regrow score` wrote; use it in place of `by`.
        refit: Whether the matrices that write to the residual stream are solved for again after
            the cut (`regrow.surgery.refitting`). None refits if there is text, and the architecture
            is pre-norm or there are `refit_passes`.
        refit_passes: How many times a refit then reads its text to train each layer alone, towards
            the residual stream of the model before this cut. 0 trains nothing.
        rotate: Whether hidden keeps the principal directions of the residual stream in place of
            some of its channels (`regrow.surgery.rotation`). None does so if there is text, the
            head is not tied, the architecture allows it, and neither `by` nor `scores` is given.
        calibration_tokens: Number of tokens of text on which directions are found and matrices are
            refitted. Scores are computed on as many, but on at most 16,384: they need fewer than a
            refit does.
        cut: A cut file; use it in place of all options above.
    """

    layers: SizeByStack | None = None
    drop_layers: Layers | dict[str, Layers] | None = None
    hidden: SizeByStack | None = None
    ffn: SizeByStack | None = None
    heads: SizeByStack | None = None
    kv_heads: SizeByStack | None = None
    experts: SizeByStack | None = None
    vocab_size: Size | None = None
    vocab: VocabularySpec | None = None
    by: By = None
    scores: Path | None = None
    refit: Annotated[bool | None, Field(strict=True)] = None
    refit_passes: Number = 0
    rotate: Annotated[bool | None, Field(strict=True)] = None
    calibration_tokens: Size = 16_384
    cut: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The size options that are set, by name."""
        names = ("layers", "drop_layers", "hidden", "ffn", "heads", "kv_heads", "experts")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        size = self.vocabulary.size if self.vocabulary else None
        return found if size is None else {**found, "vocab_size": size}

    @property
    def vocabulary(self) -> VocabularySpec | None:
        """How the kept tokens are chosen; None if the vocabulary is not cut."""
        return self.vocab if self.vocab_size is None else VocabularySpec(size=self.vocab_size)

    @field_validator("vocab")
    @classmethod
    def _sized(cls, vocab: VocabularySpec | None) -> VocabularySpec | None:
        if vocab and (vocab.size, vocab.coverage, vocab.plan) == (None, None, None):
            raise ValueError("the number of tokens to keep is missing; give size, coverage or plan")
        return vocab

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.vocab_size is not None and self.vocab is not None:
            raise ValueError("vocab_size and vocab both say which tokens remain; give one")
        if self.scores is not None and self.by is not None:
            raise ValueError("by and scores both say which indices stay; give one")
        others = (self.options, self.by, self.vocab, self.scores, self.rotate is not None)
        if self.cut is not None and any(others):
            raise ValueError("a cut file says all that is cut; leave the other options out")
        if self.cut is None and not self.options and self.vocab is None:
            raise ValueError(
                "nothing to cut; give layers, drop_layers, hidden, ffn, heads, kv_heads, "
                "experts, vocab_size, vocab or cut"
            )
        if self.rotate is not None and self.cut is None and self.hidden is None:
            raise ValueError("rotate is about hidden, which is not cut; leave rotate out")
        if self.layers is not None and self.drop_layers is not None:
            raise ValueError("layers and drop_layers both say which layers go; give one")
        return self
