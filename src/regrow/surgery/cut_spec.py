"""What a user asks of a cut."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, WrapValidator, field_validator, model_validator

from regrow.common.fields import Size, Strict, TextPath, stays_inside
from regrow.scoring.registry import SCORES, ScoreFunction
from regrow.vocabulary.vocabulary_spec import VocabularySpec


def _ranges(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


SizeByStack = Size | dict[str, Size]
"""What remains: one number, or one by stack (`{encoder: 10, decoder: 30}`)."""


Layers = Annotated[str, BeforeValidator(_ranges)]
"""Numbers from 0: `12-15,20`; a single one is a number in YAML."""


def _name_or_function(value: Any, check_name: Callable[[Any], Any]) -> Any:
    return value if callable(value) else check_name(value)


if TYPE_CHECKING:
    By = str | ScoreFunction | None
else:
    By = Annotated[Literal[tuple(SCORES)] | None, WrapValidator(_name_or_function)]


class CutSpec(Strict):
    """How much to cut, and by which score. Sizes say what remains.

    Attributes:
        layers: Layers that remain, chosen by score.
        drop_layers: Layers to drop, by number from 0: `12-15,20`.
        hidden, ffn, heads, kv_heads: Sizes that remain.
        vocab_size: Tokens that remain, by count in the text.
        vocab: In place of that, how the tokens that remain are chosen.
        by: The name of the score; None takes influence for layers and activation for widths, the
            best of these (docs/benchmarks.md). From Python also a function
            (`regrow.scoring.registry.ScoreFunction`).
        calibration_tokens: Tokens of text that scores are computed on.
        cut: A cut file, in place of all of the above.
    """

    layers: SizeByStack | None = None
    drop_layers: Layers | dict[str, Layers] | None = None
    hidden: SizeByStack | None = None
    ffn: SizeByStack | None = None
    heads: SizeByStack | None = None
    kv_heads: SizeByStack | None = None
    vocab_size: Size | None = None
    vocab: VocabularySpec | None = None
    by: By = None
    calibration_tokens: Size = 16_384
    cut: TextPath | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """The sizes that were given, by option."""
        names = ("layers", "drop_layers", "hidden", "ffn", "heads", "kv_heads")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        size = self.vocabulary.size if self.vocabulary else None
        return found if size is None else {**found, "vocab_size": size}

    @property
    def vocabulary(self) -> VocabularySpec | None:
        """How the tokens that remain are chosen; None where the vocabulary is not cut."""
        return self.vocab if self.vocab_size is None else VocabularySpec(size=self.vocab_size)

    @field_validator("vocab")
    @classmethod
    def _sized(cls, vocab: VocabularySpec | None) -> VocabularySpec | None:
        if vocab is not None:
            if (vocab.size, vocab.coverage, vocab.plan) == (None, None, None):
                raise ValueError("how many tokens remain is not said; give size, coverage or plan")
            for path in vocab.paths.values():
                stays_inside(path)
        return vocab

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.vocab_size is not None and self.vocab is not None:
            raise ValueError("vocab_size and vocab both say which tokens remain; give one")
        if self.cut is not None and (self.chosen or self.by or self.vocab):
            raise ValueError("a cut file says all that is cut; leave the other options out")
        if self.cut is None and not self.chosen and self.vocab is None:
            raise ValueError(
                "nothing to cut; give layers, drop_layers, hidden, ffn, heads, kv_heads, "
                "vocab_size, vocab or cut"
            )
        if self.layers is not None and self.drop_layers is not None:
            raise ValueError("layers and drop_layers both say which layers go; give one")
        return self
