"""The parts of ``tokenizer.json`` with ids that are the same in every family of tokenizers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError
from regrow.corpus.encoding import SENTINEL
from regrow.tokenizers.candidates import Reason

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Json = dict[str, Any]


def build_tokenizer(tokenizer_json: str) -> "Tokenizer":
    """The tokenizer of a ``tokenizer.json``, without truncation and padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def model_ids(tokenizer_json: Json) -> dict[str, int]:
    """The id of every token of ``model.vocab``, by content.

    Raises:
        UserError: ``model.vocab`` is missing or malformed, or has a token twice.
    """
    vocab = (tokenizer_json.get("model") or {}).get("vocab")
    if isinstance(vocab, dict):
        return vocab
    if not isinstance(vocab, list):
        raise UserError("tokenizer.json: model.vocab is missing; this is not a tokenizer")
    ids: dict[str, int] = {}
    for token, entry in enumerate(vocab):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise UserError(
                f"tokenizer.json: model.vocab[{token}] is {entry!r}, not a piece and its score"
            )
        if entry[0] in ids:
            raise UserError(f"tokenizer.json: model.vocab has {entry[0]!r} twice")
        ids[entry[0]] = token
    return ids


def token_ids(tokenizer_json: Json) -> dict[str, int]:
    """The id of every token, by content: ``model.vocab`` and then the tokens added outside it.

    The tokenizers library ignores the ids stated in ``added_tokens``: a token that ``model.vocab``
    has keeps its id there, and the others are numbered from the size of the vocabulary on, in file
    order. A file that states other ids is refused, since the rows of its tokens are not known.

    Raises:
        UserError: an id is used twice, or is not the one that the library gives.
    """
    vocab = model_ids(tokenizer_json)
    ids = dict(vocab)
    if len(set(ids.values())) != len(ids):
        shared = _first_repeated(ids)
        raise UserError(f"tokenizer.json: model.vocab gives {shared} the same id; ids are unique")
    outside = 0
    for token in tokenizer_json.get("added_tokens") or []:
        content, stated = token["content"], token["id"]
        if content in vocab:
            given = vocab[content]
        elif content in ids or not content:
            raise UserError(f"tokenizer.json: added_tokens has {content!r} twice or empty")
        else:
            given = len(vocab) + outside
            outside += 1
        if stated != given:
            raise UserError(
                f"tokenizer.json: added_tokens gives {content!r} the id {stated}, but the "
                f"tokenizers library reads it as {given}; make them agree"
            )
        ids[content] = given
    if outside and len(vocab) <= max(vocab.values(), default=-1):
        raise UserError(
            f"tokenizer.json: model.vocab has {len(vocab)} tokens but ids up to "
            f"{max(vocab.values())}, so ids of added tokens lie among them; close the holes"
        )
    return ids


def _first_repeated(ids: Mapping[str, int]) -> str:
    seen: dict[int, str] = {}
    for content, token in ids.items():
        if token in seen:
            return f"{seen[token]!r} and {content!r}"
        seen[token] = content
    raise AssertionError("no id is repeated")


def referenced(tokenizer_json: Json) -> dict[int, Reason]:
    """The ids that are needed outside the model: added tokens, post-processor, padding, sentinels.

    T5's sentinels are found by their names, since mT5 has them as normal pieces of the vocabulary.
    All of them stay, in their order.

    Raises:
        UserError: no token has an id that is used, or the type of the post-processor is unknown.
    """
    ids = token_ids(tokenizer_json)
    known = set(ids.values())
    reasons: dict[int, Reason] = {
        token: "special" for content, token in ids.items() if SENTINEL.fullmatch(content)
    }
    processor = tokenizer_json.get("post_processor")
    for token in _post_processor_ids(processor) if processor else []:
        if token not in known:
            raise UserError(f"tokenizer.json: post_processor uses the id {token}, no token has it")
        reasons[token] = "special"
    if padding := tokenizer_json.get("padding"):
        if padding["pad_id"] not in known:
            raise UserError(f"tokenizer.json: no token has the padding.pad_id {padding['pad_id']}")
        reasons[padding["pad_id"]] = "special"
    for token in tokenizer_json.get("added_tokens") or []:
        if token["special"]:
            reasons[token["id"]] = "special"
        else:
            reasons.setdefault(token["id"], "added")
    return reasons


def renumber(tokenizer_json: Json, mapping: Mapping[int, int]) -> Json:
    """``tokenizer_json`` with new ids everywhere except in ``model``, which is not changed.

    ``mapping``: new id by old id, with every id of :func:`referenced`.
    """
    result = dict(tokenizer_json)
    if result.get("added_tokens"):
        result["added_tokens"] = [
            {**token, "id": mapping[token["id"]]} for token in result["added_tokens"]
        ]
    if result.get("post_processor"):
        result["post_processor"] = _renumber_post_processor(result["post_processor"], mapping)
    if padding := result.get("padding"):
        result["padding"] = {**padding, "pad_id": mapping[padding["pad_id"]]}
    return result


def _post_processor_ids(processor: Json) -> list[int]:
    match processor["type"]:
        case "Sequence":
            return [i for part in processor["processors"] for i in _post_processor_ids(part)]
        case "TemplateProcessing":
            return [i for token in processor["special_tokens"].values() for i in token["ids"]]
        case "BertProcessing" | "RobertaProcessing":
            return [processor["sep"][1], processor["cls"][1]]
        case "ByteLevel":
            return []
        case other:
            raise UserError(
                f"tokenizer.json: post_processor of type {other} is not known; known are "
                "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel and Sequence"
            )


def _renumber_post_processor(processor: Json, mapping: Mapping[int, int]) -> Json:
    match processor["type"]:
        case "Sequence":
            parts = [_renumber_post_processor(part, mapping) for part in processor["processors"]]
            return {**processor, "processors": parts}
        case "TemplateProcessing":
            tokens = {
                name: {**token, "ids": [mapping[i] for i in token["ids"]]}
                for name, token in processor["special_tokens"].items()
            }
            return {**processor, "special_tokens": tokens}
        case "BertProcessing" | "RobertaProcessing":
            ends = {end: [processor[end][0], mapping[processor[end][1]]] for end in ("sep", "cls")}
            return {**processor, **ends}
        case _:
            return processor
