"""Token ids in ``config.json`` and ``generation_config.json``.

Ids are searched at every depth, so also in ``text_config``, ``encoder``, ``decoder`` and
``task_specific_params``. Negative ids mean "none" and stay. ``vocab_size`` is not an id and is
not touched.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from regrow.common.errors import UserError

Json = dict[str, Any]


class Reference(NamedTuple):
    """An id that a config names.

    Attributes:
        token: the id.
        where: file and key, such as "config.json: decoder.pad_token_id".
        droppable: whether the entry can be left out with the token, as in a list of suppressed ids.
    """

    token: int
    where: str
    droppable: bool


# The new id, or None if a droppable id is gone.
_Visit = Callable[[Reference], int | None]

_ID_SUFFIXES = ("_token_id", "_token_ids", "_token_index")
_ID_KEYS = frozenset(
    {
        "force_words_ids", "lang_to_id", "task_to_id", "vocabulary_map",
        # SeamlessM4T, MiniCPM-V and HunYuanVL
        "text_decoder_lang_to_code_id", "image_start_id", "image_end_id", "slice_start_id",
        "slice_end_id", "newline_id", "image_patch_id", "im_start_id", "im_end_id",
        "im_newline_id",
    }
)  # fmt: skip
"""Keys of ids whose names do not say so; those of audio codes are none of the vocabulary."""
_SUPPRESSED = frozenset({"suppress_tokens", "begin_suppress_tokens"})


def check_rows(ids: int, rows: int) -> None:
    """Check that every id has a row in the embedding. More rows than ids are padding.

    Args:
        ids: largest id + 1.
        rows: rows of the embedding.

    Raises:
        UserError: there are fewer rows than ids.
    """
    if rows < ids:
        raise UserError(
            f"tokenizer and embedding do not match: the tokenizer has ids up to {ids - 1:,}, "
            f"the embedding {rows:,} rows; use the tokenizer of this model"
        )


def referenced_ids(config: Json, generation_config: Json | None, rows: int) -> dict[int, str]:
    """The ids that must be kept because a config names them, and the first place that names each.

    Suppressed ids and sequences are not among them: such an entry goes with its token.

    Args:
        config: the contents of ``config.json``.
        generation_config: the contents of ``generation_config.json``, if there is one.
        rows: rows of the embedding.

    Raises:
        UserError: an id is not below ``rows``, or a value does not have transformers' form.
    """
    references = references_in(config, "config.json")
    references += references_in(generation_config or {}, "generation_config.json")
    found: dict[int, str] = {}
    for token, where, droppable in references:
        if token >= rows:
            raise UserError(
                f"{where} is {token}, but the embedding has {rows:,} rows; "
                "name the id that is meant"
            )
        if not droppable:
            found.setdefault(token, where)
    return found


def references_in(config: Json, file: str) -> list[Reference]:
    """Every id in ``config``, the contents of ``file``.

    Raises:
        UserError: a value does not have transformers' form.
    """
    found: list[Reference] = []

    def note(reference: Reference) -> int:
        found.append(reference)
        return reference.token

    _walk(config, note, f"{file}: ")
    return found


def remap_ids(config: Json, mapping: Mapping[int, int], file: str) -> Json:
    """``config`` with the new id for every old one; nothing else changes.

    A suppressed id that was dropped is removed from its list, and so is a sequence with a dropped
    id. A list that becomes empty is replaced by null, since transformers refuses some empty lists.

    Args:
        config: the contents of ``file``; it is not changed.
        mapping: new id by old id.
        file: its name, for messages.

    Raises:
        UserError: an id that must be kept was dropped, or a value does not have transformers'
            form.
    """

    def new(reference: Reference) -> int | None:
        if reference.token not in mapping and not reference.droppable:
            raise UserError(
                f"{reference.where} is {reference.token}, which is not among the kept tokens; "
                "keep it too"
            )
        return mapping.get(reference.token)

    return _walk(config, new, f"{file}: ")


def _walk(config: Json, visit: _Visit, prefix: str) -> Json:
    return {key: _entry(key, value, visit, prefix + key) for key, value in config.items()}


def _entry(key: str, value: Any, visit: _Visit, where: str) -> Any:
    if key.endswith(_ID_SUFFIXES) or key in _ID_KEYS:
        return _ids(value, visit, where)
    if isinstance(value, dict):
        return _walk(value, visit, f"{where}.")
    if value is None:
        return None
    try:
        if key in _SUPPRESSED:
            return _filtered(value, lambda token: _droppable(token, visit, where))
        if key == "bad_words_ids":
            return _filtered(value, lambda words: _sequence(words, visit, where))
        if key == "sequence_bias":
            return _filtered(value, lambda biased: _biased(biased, visit, where))
        if key == "forced_decoder_ids":
            return [[position, _ids(token, visit, where)] for position, token in value]
    except (TypeError, ValueError) as error:
        raise _malformed(where, value) from error
    return value


def _ids(value: Any, visit: _Visit, where: str) -> Any:
    """An id, nested lists of ids, or ids by name."""
    match value:
        case None | bool():
            return value
        case int():
            return value if value < 0 else visit(Reference(value, where, droppable=False))
        case list():
            return [_ids(item, visit, where) for item in value]
        case dict():
            return {name: _ids(item, visit, where) for name, item in value.items()}
        case _:
            raise _malformed(where, value)


def _filtered(values: list[Any], change: Callable[[Any], Any]) -> list[Any] | None:
    left = [new for value in values if (new := change(value)) is not None]
    return left if left or not values else None


def _droppable(token: int, visit: _Visit, where: str) -> int | None:
    if type(token) is not int:
        raise _malformed(where, token)
    return token if token < 0 else visit(Reference(token, where, droppable=True))


def _sequence(tokens: list[int], visit: _Visit, where: str) -> list[int] | None:
    new = [_droppable(token, visit, where) for token in tokens]
    left = [token for token in new if token is not None]
    return left if len(left) == len(new) else None


def _biased(biased: list[Any], visit: _Visit, where: str) -> list[Any] | None:
    tokens, bias = biased
    sequence = _sequence(tokens, visit, where)
    return None if sequence is None else [sequence, bias]


def _malformed(where: str, value: Any) -> UserError:
    return UserError(f"{where}: {value!r} is not of the form that transformers writes")
