"""Sentences with named entities as samples."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from regrow.instructions.language import language_of
from regrow.instructions.sample import Content, Value
from regrow.ner.bio_files import read_bio
from regrow.ner.json_files import read_json_entities
from regrow.ner.prompts import training_question
from regrow.ner.sentences import EntitySet, Sentence

_NONE = {"en": "none", "zh": "无"}
_MARKS = {"en": (": ", ", ", "; "), "zh": ("\uff1a", "\u3001", "\uff1b")}
"""After a type, between entities, and between types."""


def read_entities(
    path: Path,
    *,
    is_json: bool,
    labels: Mapping[str, str],
    language: str,
    seed: int,
    note: Callable[[str], None],
) -> Iterator[Content]:
    """The sentences of a file in the forms that `regrow ner` reads.

    Args:
        path: the file.
        is_json: whether it holds JSON.
        labels: words for types.
        language: of the sentences; empty if each shows it.
        seed: decides which types that a sentence has not are asked for.
        note: takes what of the file could not be kept.

    Raises UserError if it has none of the forms.
    """
    found = (read_json_entities if is_json else read_bio)(path, path.name)
    for each in found.notes:
        note(each)
    for sentence in found.sentences:
        yield _content(sentence, found, labels, language, seed)


def _content(
    sentence: Sentence, of: EntitySet, labels: Mapping[str, str], language: str, seed: int
) -> Content:
    question = training_question(sentence, of, seed)
    names = {name: labels.get(name, words) for name, words in question.names.items()}
    language = language or language_of([sentence.text])
    after, between, divider = _MARKS.get(language, _MARKS["en"])
    mentions: dict[str, dict[str, None]] = {}
    for span in sentence.spans:
        words = sentence.joiner.join(sentence.tokens[span.first : span.last])
        mentions.setdefault(names[span.type], {})[words] = None
    lines = [f"{name}{after}{between.join(words)}" for name, words in mentions.items()]
    fields: dict[str, Value] = {
        "text": sentence.text,
        "types": tuple(dict.fromkeys(names.values())),
        "answer": divider.join(lines) or _NONE.get(language, _NONE["en"]),
    }
    if not labels:
        fields["tagged"] = question.answer
    return Content("named entity recognition", fields, language=language)
