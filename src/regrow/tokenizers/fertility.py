"""The fertility of a tokenizer: how many tokens a text has, and how much of it is unknown."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from regrow.tokenizers.candidates import VocabularyChoice
from regrow.tokenizers.encoding import chunks
from regrow.tokenizers.tokenizer_files import plan_tokenizer
from regrow.tokenizers.tokenizer_json import build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Fertility:
    """The tokens of a text.

    Attributes:
        characters: of the text.
        tokens: without special tokens around the text.
        unknown: characters that became the unknown token.
    """

    characters: int
    tokens: int
    unknown: int

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / max(1, self.characters)

    @property
    def unknown_share(self) -> float:
        """Of all characters, from 0 to 1."""
        return self.unknown / max(1, self.characters)

    def __add__(self, other: Self) -> "Fertility":
        return Fertility(
            self.characters + other.characters,
            self.tokens + other.tokens,
            self.unknown + other.unknown,
        )


def measure_fertility(tokenizer: "Tokenizer", documents: Iterable[str]) -> Fertility:
    """Encode ``documents`` and count. Memory does not grow with their number."""
    unknown = _unknown_id(tokenizer)
    found = Fertility(0, 0, 0)
    for chunk in chunks(documents):
        encodings = tokenizer.encode_batch(chunk, add_special_tokens=False)
        lost = 0
        for encoding in encodings if unknown is not None else ():
            if unknown in encoding.ids:
                spans = zip(encoding.ids, encoding.offsets, strict=True)
                lost += sum(end - start for token, (start, end) in spans if token == unknown)
        tokens = sum(len(encoding.ids) for encoding in encodings)
        found += Fertility(sum(map(len, chunk)), tokens, lost)
    return found


def fertility_by_language(
    tokenizer: "Tokenizer", samples: Mapping[str, Iterable[str]]
) -> dict[str, Fertility]:
    """The fertility of a tokenizer on a sample of each language."""
    return {name: measure_fertility(tokenizer, texts) for name, texts in samples.items()}


def pruned_tokenizer(directory: Path, choice: VocabularyChoice) -> "Tokenizer":
    """The tokenizer of a model directory, with the tokens of ``choice`` only.

    Raises:
        UserError: see :func:`regrow.tokenizers.tokenizer_files.plan_tokenizer`.
    """
    return build_tokenizer(plan_tokenizer(directory, choice)["tokenizer.json"].decode())


def _unknown_id(tokenizer: "Tokenizer") -> int | None:
    model = json.loads(tokenizer.to_str())["model"]
    token = model.get("unk_token")
    unknown: int | None = model.get("unk_id") if token is None else tokenizer.token_to_id(token)
    return unknown
