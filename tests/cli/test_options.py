"""A key of a setting becomes the option that gives it."""

import pytest

from regrow.cli.options import as_option, keys_as_options
from regrow.common.errors import SaidError, UserError

OPTIONS = {"corpus": "--corpus", "vocab.pad_to": "--pad-to"}


@pytest.mark.parametrize(
    ("message", "key", "said"),
    [
        ("name at least one file", "corpus", "--corpus: name at least one file"),
        ("a/b: the directory holds no text", "corpus", "--corpus a/b: the directory holds no text"),
        ("8: too many rows", "vocab.pad_to", "--pad-to 8: too many rows"),
        ("less than 1", "steps", "steps: less than 1"),
        ("out: exists", None, "out: exists"),
    ],
)
def test_a_known_key_is_named_by_its_option(message: str, key: str | None, said: str) -> None:
    assert str(as_option(UserError(message, key=key), OPTIONS)) == said
    with pytest.raises(UserError) as caught, keys_as_options(OPTIONS):
        raise UserError(message, key=key)
    assert str(caught.value) == said


def test_an_error_without_a_known_key_stays_itself() -> None:
    error = SaidError("said elsewhere")
    with pytest.raises(SaidError) as caught, keys_as_options(OPTIONS):
        raise error
    assert caught.value is error
