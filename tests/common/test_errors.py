"""A user error says which setting is wrong, also when it comes from another process."""

import pickle

import pytest

from regrow.common.errors import UserError, ending_in


def test_the_key_begins_the_line() -> None:
    assert str(UserError("out: exists")) == "out: exists"
    error = UserError("less than 1 is left", key="cut.vocab_size")
    assert str(error) == "cut.vocab_size: less than 1 is left"
    assert (error.message, error.key) == ("less than 1 is left", "cut.vocab_size")


def test_an_error_ends_with_what_would_be_right() -> None:
    error = UserError("not JSON", key="cut", value="a.json")
    for key, expected in ((None, "cut a.json"), ("scores", "scores a.json")):
        with (
            pytest.raises(UserError, match=f"^{expected}: not JSON; name another$"),
            ending_in("name another", key=key),
        ):
            raise error


def test_message_and_key_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("no text", key="corpus")))
    assert (str(error), error.message, error.key) == ("corpus: no text", "no text", "corpus")


def test_a_message_that_quotes_something_huge_is_shortened() -> None:
    error = UserError("config.json: size: " + "x" * 99_999 + " is no number", key="a")
    assert len(str(error)) < 1000
    assert str(error).startswith("a: config.json: size: xxx")
    assert str(error).endswith("xxx is no number")
    assert str(error.within("stages")) == "stagesa" + str(error).removeprefix("a")
