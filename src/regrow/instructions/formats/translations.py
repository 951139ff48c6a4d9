"""A text and its translation in one record."""

from collections.abc import Callable

from regrow.instructions.formats.format import BrokenError, Fields, Format, is_text
from regrow.instructions.parallel import paired
from regrow.instructions.sample import Content


def translation(one: str, other: str) -> Content:
    """The two sides of a translation. Raises BrokenError if they are none."""
    content, problem = paired(one, other)
    if content is None:
        raise BrokenError(problem)
    return content


def _both(first: str, second: str) -> Callable[[Fields], list[Content]]:
    return lambda record: [translation(record[first], record[second])]


def _inside(record: Fields) -> list[Content]:
    return [translation(record["translation"]["en"], record["translation"]["zh"])]


def _has_both(record: Fields) -> bool:
    value = record["translation"]
    return isinstance(value, dict) and is_text(value, "en", "zh")


TRANSLATIONS = (
    Format("translation", ("translation",), _has_both, _inside),
    Format(
        "english and chinese", ("english", "chinese"),
        lambda record: is_text(record, "english", "chinese"), _both("english", "chinese"),
    ),
    Format(
        "en and zh", ("en", "zh"), lambda record: is_text(record, "en", "zh"), _both("en", "zh")
    ),
)  # fmt: skip
