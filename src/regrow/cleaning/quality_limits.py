"""The limits of the quality rules, for scripts with spaces and for Chinese and Japanese."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from regrow.common.fields import Count, Fraction, Number, Strict, refuse_bool

Positive = Annotated[float, BeforeValidator(refuse_bool), Field(ge=0, allow_inf_nan=False)]

Grams = tuple[tuple[Annotated[Count, Field(ge=1, le=64)], Fraction], ...]
"""Pairs of n and a limit."""


class Limits(Strict):
    """The limits of the quality rules.

    A unit is a word, or one character of Chinese or Japanese. A limit of `null` switches its rule
    off.

    Attributes:
        least_line_units: Lines of fewer units are dropped, and not judged (C4).
        least_units: The fewest units of a document (Gopher).
        most_units: The most units of a document (Gopher).
        least_unit_length: The shortest mean length of a unit, in characters (Gopher).
        most_unit_length: The longest mean length of a unit, in characters (Gopher).
        least_letters: The least share of units with a letter (Gopher).
        hashes: The most `#` for each unit (Gopher).
        ellipses: The most ellipses for each unit (Gopher).
        bullet_lines: The most lines that begin with a bullet, as a share (Gopher).
        ellipsis_lines: The most lines that end with an ellipsis, as a share (Gopher).
        least_stop_words: The fewest different stop words, which are English and Chinese ones;
            `null` for other languages (Gopher).
        duplicate_lines: The largest share of lines that were there before (Gopher).
        duplicate_line_characters: The largest share of characters in such lines (Gopher, FineWeb).
        duplicate_paragraphs: The largest share of paragraphs that were there before (Gopher).
        duplicate_paragraph_characters: The largest share of characters in them (Gopher).
        top_grams: Pairs of n and the largest share of characters in the most frequent n-gram of
            units (Gopher).
        duplicate_grams: Pairs of n and the largest share of characters in n-grams that were there
            before (Gopher).
        least_sentences: The fewest sentences (C4).
        least_terminal_lines: The least share of lines that end a sentence (FineWeb).
        short_line: A line with at most so many characters is short (FineWeb).
        short_lines: The largest share of short lines (FineWeb).
        line_ends: The most line ends for each unit (FineWeb).
    """

    least_line_units: Number | None = 3
    least_units: Number | None = 50
    most_units: Number | None = 100_000
    least_unit_length: Positive | None = 3.0
    most_unit_length: Positive | None = 10.0
    least_letters: Fraction | None = 0.8
    hashes: Positive | None = 0.1
    ellipses: Positive | None = 0.1
    bullet_lines: Fraction | None = 0.9
    ellipsis_lines: Fraction | None = 0.3
    least_stop_words: Number | None = 2
    duplicate_lines: Fraction | None = 0.3
    duplicate_line_characters: Fraction | None = 0.1
    duplicate_paragraphs: Fraction | None = 0.3
    duplicate_paragraph_characters: Fraction | None = 0.2
    top_grams: Grams = ((2, 0.2), (3, 0.18), (4, 0.16))
    duplicate_grams: Grams = (
        (5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)
    )  # fmt: skip
    least_sentences: Number | None = 3
    least_terminal_lines: Fraction | None = 0.12
    short_line: Number = 30
    short_lines: Fraction | None = 0.67
    line_ends: Positive | None = 0.3


class ChineseLimits(Limits):
    """The same limits with defaults for Chinese, measured on Chinese text.

    An English word stands for some 1.6 Chinese characters. So a document, and what is counted for
    each unit, is longer by this factor, and an n-gram has more units. The mean length of a unit
    says nothing in Chinese.
    """

    least_line_units: Number | None = 5
    least_units: Number | None = 80
    most_units: Number | None = 160_000
    least_unit_length: Positive | None = None
    most_unit_length: Positive | None = None
    least_letters: Fraction | None = 0.7
    hashes: Positive | None = 0.06
    ellipses: Positive | None = 0.06
    top_grams: Grams = ((4, 0.2), (5, 0.18), (6, 0.16))
    duplicate_grams: Grams = (
        (8, 0.15), (10, 0.14), (11, 0.13), (13, 0.12), (14, 0.11), (16, 0.1)
    )  # fmt: skip
    short_line: Number = 12
    line_ends: Positive | None = 0.2
