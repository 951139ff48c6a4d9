"""Whether ``tokenizer.json`` has the form that the tokenizers library writes.

The file may come from anyone. All other code of this folder relies on this check.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from regrow.common.errors import UserError

Json = dict[str, Any]

MAX_ID = 1 << 24
"""Ids are below this. Arrays with an entry for each id have as many entries as the largest id."""
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_INNER = ("normalizers", "pretokenizers", "processors", "decoders")
"""The keys of a step of the type ``Sequence`` under which its steps stand."""


def check_form(tokenizer_json: Json) -> Json:
    """The same contents.

    Raises UserError, with the key, if a value that regrow reads has another form.
    """
    for key, wanted in _faults(tokenizer_json):
        raise UserError(f"tokenizer.json: {key}: {wanted} is wanted")
    return tokenizer_json


def check_size(ids: int, where: str) -> int:
    """The number of ids. Raises UserError, beginning with `where`, if no vocabulary has so many."""
    if ids > MAX_ID:
        raise UserError(f"{where}: an id is {ids - 1:,}; ids below {MAX_ID:,} are wanted")
    return ids


def _faults(contents: Json) -> Iterator[tuple[str, str]]:
    """The key of each value of another form, and what is wanted there."""
    model = contents.get("model")
    if not isinstance(model, dict):
        yield "model", "the model of a tokenizer"
        return
    yield from _faults_of_model(model)
    for number, token in enumerate(_list(contents.get("added_tokens"))):
        if not (
            isinstance(token, dict)
            and isinstance(token.get("content"), str)
            and _is_id(token.get("id"))
            and isinstance(token.get("special"), bool)
        ):
            yield f"added_tokens[{number}]", "an object with content, id and special"
    if not isinstance(contents.get("added_tokens"), list | None):
        yield "added_tokens", "a list of tokens"
    padding = contents.get("padding")
    if padding is not None and not (isinstance(padding, dict) and _is_id(padding.get("pad_id"))):
        yield "padding", "null, or an object with pad_id"
    for key in _STEPS:
        if contents.get(key) is not None:
            yield from _faults_of_step(contents[key], key)


def _faults_of_model(model: Json) -> Iterator[tuple[str, str]]:
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        if not all(map(_is_id, vocab.values())):
            yield "model.vocab", f"a whole number below {MAX_ID:,} for each token"
    elif isinstance(vocab, list):
        for number, entry in enumerate(vocab):
            if not (
                isinstance(entry, list)
                and len(entry) == 2
                and isinstance(entry[0], str)
                and type(entry[1]) in (int, float)
            ):
                yield f"model.vocab[{number}]", "a piece and its score"
    else:
        yield "model.vocab", "the tokens of a tokenizer"
    if not vocab:
        yield "model.vocab", "at least one token"
    if not isinstance(model.get("type"), str | None):
        yield "model.type", "the name of a type"
    for key in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if not isinstance(model.get(key), str | None):
            yield f"model.{key}", "text or null"
    if not (model.get("unk_id") is None or _is_id(model["unk_id"])):
        yield "model.unk_id", "an id or null"
    kind, merges = model.get("type"), model.get("merges")
    if not isinstance(merges, list) and (kind == "BPE" or merges is not None):
        yield "model.merges", "a list of pairs"
    if kind in ("BPE", "WordPiece") and not isinstance(vocab, dict):
        yield "model.vocab", "an id for each token"
    if kind == "Unigram" and not isinstance(vocab, list):
        yield "model.vocab", "a list of pieces"
    for number, merge in enumerate(_list(merges)):
        parts = merge if isinstance(merge, list) else [merge]
        if not parts or not all(isinstance(part, str) for part in parts):
            yield f"model.merges[{number}]", "a pair of tokens"


def _faults_of_step(step: Any, where: str) -> Iterator[tuple[str, str]]:
    """The faults of a normalizer, pre-tokenizer, post-processor or decoder."""
    if not isinstance(step, dict) or not isinstance(step.get("type"), str):
        yield where, "an object with a type"
        return
    for key in _INNER:
        inner = step.get(key)
        if not isinstance(inner, list | None):
            yield f"{where}.{key}", "a list"
        for number, each in enumerate(_list(inner)):
            yield from _faults_of_step(each, f"{where}.{key}[{number}]")
    if step["type"] == "Sequence" and not any(isinstance(step.get(key), list) for key in _INNER):
        yield where, "a list of steps"
    if step["type"] == "TemplateProcessing":
        tokens = step.get("special_tokens")
        if not isinstance(tokens, dict) or not all(map(_has_ids, tokens.values())):
            yield f"{where}.special_tokens", "the ids of each token"
    if step["type"] in ("BertProcessing", "RobertaProcessing"):
        for key in ("sep", "cls"):
            pair = step.get(key)
            if not (isinstance(pair, list) and len(pair) == 2 and _is_id(pair[1])):
                yield f"{where}.{key}", "a token and its id"


def _has_ids(token: Any) -> bool:
    ids = token.get("ids") if isinstance(token, Mapping) else None
    return isinstance(ids, list) and all(map(_is_id, ids))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_ID


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
