"""The type of a token on disk."""

from regrow.corpus.tokenizer_hash import token_dtype


def test_tokens_take_two_bytes_where_they_fit() -> None:
    class Sized:
        def __init__(self, largest: int) -> None:
            self.largest = largest

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": self.largest}

    assert token_dtype(Sized(65_535)) == "uint16"
    assert token_dtype(Sized(65_536)) == "int32"
