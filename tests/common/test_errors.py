"""A user error says which setting is wrong, also when it comes from another process."""

import pickle

from regrow.common.errors import UserError


def test_the_key_begins_the_line() -> None:
    assert str(UserError("out: exists")) == "out: exists"
    error = UserError("less than 1 is left", key="cut.vocab_size")
    assert str(error) == "cut.vocab_size: less than 1 is left"
    assert (error.message, error.key) == ("less than 1 is left", "cut.vocab_size")


def test_message_and_key_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("no text", key="corpus")))
    assert (str(error), error.message, error.key) == ("corpus: no text", "no text", "corpus")
