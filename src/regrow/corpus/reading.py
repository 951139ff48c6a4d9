"""How the documents of text files are read: under which key, and whether they are conversations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regrow.common.files import json_bytes
from regrow.corpus.conversations import PAIRS, as_document, conversation_of

_CONVERSATION_COLUMNS = (("messages",), *PAIRS)


@dataclass(frozen=True)
class Reading:
    """How the documents of text files are read.

    Attributes:
        text_key: The key of a line's text in `.jsonl`, and its column in `.parquet`.
        special_tokens: Whether the names of special tokens in a text stand for the tokens.
        conversations: Whether a line or a row is a conversation. Its document is then its messages
            as JSON (`regrow.corpus.conversations`).
    """

    text_key: str = "text"
    special_tokens: bool = False
    conversations: bool = False

    @property
    def example(self) -> str:
        """A line of a `.jsonl` file."""
        if self.conversations:
            return '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}'
        return f'{{"{self.text_key}": "..."}}'

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """The columns of a Parquet file that hold its documents; the first that a file has."""
        return _CONVERSATION_COLUMNS if self.conversations else ((self.text_key,),)

    def line(self, document: str) -> bytes:
        """A document as a line of a `.jsonl` file, which this reads."""
        if self.conversations:
            return document.encode() + b"\n"
        return json_bytes({self.text_key: document}, None)

    def document(self, record: Mapping[str, Any]) -> str:
        """The document of a line or a row. Raises ValueError, in words, if it holds none."""
        if self.conversations:
            return as_document(conversation_of(record))
        if self.text_key not in record:
            found = next((keys for keys in _CONVERSATION_COLUMNS if set(keys) <= set(record)), ())
            if found:
                named = "' and '".join(found)
                raise ValueError(
                    f"has no key '{self.text_key}' but '{named}': conversations, whose answers "
                    "are learned with the `objective` instructions"
                )
            raise ValueError(f"has no key '{self.text_key}'; each line should be {self.example}")
        text = record[self.text_key]
        if not isinstance(text, str):
            raise ValueError(
                f"key '{self.text_key}': not a string; each line should be {self.example}"
            )
        return text


PLAIN_TEXT = Reading()
CONVERSATIONS = Reading(conversations=True)
