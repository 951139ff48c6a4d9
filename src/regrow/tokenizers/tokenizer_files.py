"""The tokenizer files of a Hugging Face directory, changed together so that they agree.

The vocabulary is in tokenizer.json and, beside it or alone, in a `.model` of sentencepiece,
vocab.txt, or vocab.json and merges.txt. If tokenizer.json is missing, transformers makes it from
the other files.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.files import json_bytes, parse_json_object, read_json_object, read_text
from regrow.tokenizers.added_merges import add_merges
from regrow.tokenizers.candidates import VocabularyChoice
from regrow.tokenizers.chat_templates import has_template, template_ids
from regrow.tokenizers.config_ids import references_in, remap_ids
from regrow.tokenizers.families import (
    WITH_MERGES,
    WITH_PIECES,
    Candidates,
    Constraints,
    candidates_of,
    family_of,
    prune_tokenizer_json,
    pruner,
)
from regrow.tokenizers.sentencepiece_model import SentencePieceModel, read_sentencepiece_models
from regrow.tokenizers.tokenizer_form import check_form
from regrow.tokenizers.tokenizer_json import build_tokenizer, token_ids

Json = dict[str, Any]

# These name tokens by content only.
_UNCHANGED = ("special_tokens_map.json", "chat_template.jinja")
_SPECIAL_LISTS = (
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
)
_OTHER_VOCABULARIES = (
    "*.model",
    "*.model.v*",
    "*.tiktoken",
    "*.vocab",
    "vocab.txt",
    "vocab.bpe",
    "encoder.json",
    "tekken.json",
    "*.spm",
    "target_vocab.json",
    "vocab-*.json",
    "bpe.codes",
    "dict.txt",
)
_ALONE = ("*.model", "vocab.txt", "vocab.json")


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has a vocabulary in a form that can be pruned."""
    forms = ("tokenizer.json", *_ALONE)
    return any(path.is_file() for form in forms for path in directory.glob(form))


def read_tokenizer(directory: Path) -> Json:
    """The contents of ``directory/tokenizer.json``, or what transformers would write there.

    Raises:
        UserError: there is no tokenizer, or it cannot be read.
    """
    tokenizer = _read_json(directory / "tokenizer.json")
    if tokenizer is not None:
        return check_form(tokenizer)
    if not has_tokenizer(directory):
        raise UserError(
            f"{directory}: no tokenizer.json, and no file that one can be made of; "
            "load the tokenizer with transformers and save it"
        )
    stamps = tuple(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(directory.iterdir())
        if path.is_file()
    )
    made = _made_by_transformers(directory, stamps)
    return check_form(parse_json_object(made, f"{directory}: the tokenizer"))


@lru_cache(maxsize=1)
def _made_by_transformers(directory: Path, stamps: tuple[tuple[str, int, int], ...]) -> bytes:
    """The tokenizer.json that transformers makes; ``stamps``: of the files, for the cache."""
    from regrow.models.loading import load_tokenizer

    tokenizer = load_tokenizer(directory)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{directory}: no tokenizer.json, and {type(tokenizer).__name__} makes none; "
            "only a tokenizer that has one can be pruned"
        )
    made: str = backend.to_str()
    return made.encode()


def vocabulary_candidates(
    directory: Path,
    counts: NDArray[np.int64],
    named: Mapping[int, str] | None = None,
    constraints: Constraints | None = None,
) -> Candidates:
    """The tokens in the order in which they are kept. Any size can be chosen from them.

    Args:
        directory: of the model.
        counts: occurrences by id, shape [largest id + 1].
        named: the ids that a config names, and where; see
            :func:`regrow.tokenizers.config_ids.referenced_ids`. The ids that files of the tokenizer
            name are added to them.
        constraints: what the user asks for.

    Raises:
        UserError: there is no tokenizer that can be pruned, its files do not agree, or the
            constraints cannot be met.
    """
    contents = read_tokenizer(directory)
    return candidates_of(
        contents,
        counts,
        {**(named or {}), **named_ids(directory)},
        constraints,
        _sentencepiece_models(directory, contents),
        _template_tokens(directory, contents),
    )


def _template_tokens(directory: Path, contents: Json) -> list[int]:
    if not has_template(directory):
        return []
    return template_ids(directory, build_tokenizer(json.dumps(contents)))


def vocabulary_pruner(directory: Path) -> Callable[[NDArray[np.int64]], Json]:
    """A function from kept tokens to the contents of tokenizer.json. It writes nothing.

    Raises:
        UserError: there is no tokenizer that can be pruned, or its files do not agree.
    """
    contents = read_tokenizer(directory)
    return pruner(contents, _sentencepiece_models(directory, contents))


def named_ids(directory: Path) -> dict[int, str]:
    """The ids of tokens that files beside ``tokenizer.json`` name, and where.

    They must be kept: transformers adds such a token again when it loads a tokenizer without it.

    Raises:
        UserError: a token is not in ``tokenizer.json`` or has another id there.
    """
    ids = token_ids(read_tokenizer(directory))
    found: dict[int, str] = {}
    for content, stated, where in _named_tokens(directory):
        if content not in ids:
            raise UserError(
                f"{where} is {content!r}, which tokenizer.json lacks; "
                "load the tokenizer with transformers and save it"
            )
        if stated is not None and stated != ids[content]:
            raise UserError(
                f"{where} gives {content!r} the id {stated}, tokenizer.json {ids[content]}; "
                "make them agree"
            )
        found.setdefault(ids[content], where)
    config = _read_json(directory / "tokenizer_config.json") or {}
    for reference in references_in(config, "tokenizer_config.json"):
        found.setdefault(reference.token, reference.where)
    return found


def plan_tokenizer(directory: Path, choice: VocabularyChoice) -> dict[str, bytes]:
    """The new contents of each tokenizer file in ``directory``, by name.

    These are tokenizer.json and, if present, each `.model`, tokenizer_config.json, vocab.json,
    merges.txt, vocab.txt, added_tokens.json, special_tokens_map.json and chat_template.jinja.
    Nothing is written, and other files are not read; see :func:`stale_files`.

    Raises:
        UserError: a file is malformed or does not agree with tokenizer.json, a token that a file
            names is not kept, or the tokenizer cannot be pruned.
    """
    old = read_tokenizer(directory)
    files = _sentencepiece_models(directory, old)
    new = prune_tokenizer_json(old, choice.kept, files)
    ids = token_ids(old)
    mapping = choice.mapping()
    for token, where in named_ids(directory).items():
        if token not in mapping:
            raise UserError(f"{where} has the id {token}, which is not kept; keep it too")

    planned = _renumbered_files(directory, old, new, mapping)
    gone = {content for content, token in ids.items() if token not in mapping}
    return planned | {file.name: file.prune(gone) for file in files}


def plan_grown_tokenizer(
    directory: Path, merges: Sequence[tuple[str, str]]
) -> tuple[dict[str, bytes], dict[int, int]]:
    """The new contents of each tokenizer file with further merges, and the new id by old id.

    Raises:
        UserError: the tokenizer is not BPE, or is in a `.model` too.
    """
    old = read_tokenizer(directory)
    if (kind := family_of(old)) not in WITH_MERGES:
        raise UserError(
            f"{directory}: the tokenizer is {kind}; what can be given merges is "
            + ", ".join(WITH_MERGES)
        )
    if files := _sentencepiece_models(directory, old):
        raise UserError(
            f"{directory / files[0].name}: this form of the tokenizer cannot be given merges; "
            "delete it where tokenizer.json is enough"
        )
    named_ids(directory)  # raises if the files do not agree
    new, mapping = add_merges(old, merges)
    return _renumbered_files(directory, old, new, mapping), mapping


def _renumbered_files(
    directory: Path, old: Json, new: Json, mapping: Mapping[int, int]
) -> dict[str, bytes]:
    """All files but those of sentencepiece, with the tokens of ``new``.

    ``mapping``: new id by old id.
    """
    ids = token_ids(old)
    planned = {"tokenizer.json": json_bytes(new)}
    if (config := _read_json(directory / "tokenizer_config.json")) is not None:
        config = remap_ids(config, mapping, "tokenizer_config.json")
        if config.get("added_tokens_decoder"):
            decoder = config["added_tokens_decoder"]
            config["added_tokens_decoder"] = {str(mapping[int(i)]): t for i, t in decoder.items()}
        planned["tokenizer_config.json"] = json_bytes(config)
    if (added := _read_json(directory / "added_tokens.json")) is not None:
        planned["added_tokens.json"] = json_bytes({t: mapping[i] for t, i in added.items()})
    if (vocab := _read_json(directory / "vocab.json")) is not None:
        more = {content: i for content, i in token_ids(new).items() if content not in ids}
        planned["vocab.json"] = json_bytes(_prune_vocab(vocab, ids, mapping) | more)
    if (merges := directory / "merges.txt").is_file():
        planned["merges.txt"] = _prune_merges(merges, old["model"], new["model"])
    if (words := directory / "vocab.txt").is_file() and family_of(old) == "WordPiece":
        planned["vocab.txt"] = _prune_lines(words, ids, mapping)
    for name in _UNCHANGED:
        if (directory / name).is_file():
            planned[name] = (directory / name).read_bytes()
    return planned


def _sentencepiece_models(directory: Path, contents: Json) -> list[SentencePieceModel]:
    """The `.model` files, if the family has them; for others the suffix means another format."""
    return read_sentencepiece_models(directory) if family_of(contents) in WITH_PIECES else []


def stale_files(directory: Path) -> list[str]:
    """Names of files that hold the old vocabulary in another form and must not be passed on."""
    return sorted({p.name for form in _OTHER_VOCABULARIES for p in directory.glob(form)})


def _named_tokens(directory: Path) -> Iterator[tuple[str, int | None, str]]:
    """Each token that a file names: its content, its id if the file has it, and the place."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in (_read_json(directory / file) or {}).items():
            where = f"{file}: {key}"
            if key == "added_tokens_decoder":
                if not isinstance(value, dict | None):
                    raise UserError(f"{where}: {value!r:.60} is no object of tokens by id")
                for token, entry in (value or {}).items():
                    if not token.isdecimal():
                        raise UserError(f"{where}: {token!r} is not an id")
                    yield _content(entry, where), int(token), where
            elif key in _SPECIAL_LISTS:
                if not isinstance(value, dict | list | None):
                    raise UserError(f"{where}: {value!r:.60} is no list of tokens")
                for entry in value.values() if isinstance(value, dict) else value or []:
                    yield _content(entry, where), None, where
            elif key.endswith("_token") and isinstance(value, str | dict):
                yield _content(value, where), None, where
    for content, token in (_read_json(directory / "added_tokens.json") or {}).items():
        yield content, token, "added_tokens.json"


def _content(entry: Any, where: str) -> str:
    content = entry.get("content") if isinstance(entry, dict) else entry
    if not isinstance(content, str):
        raise UserError(f"{where}: {entry!r} is not a token")
    return content


def _prune_vocab(
    vocab: Mapping[str, int], ids: Mapping[str, int], mapping: Mapping[int, int]
) -> dict[str, int]:
    for content, token in vocab.items():
        if ids.get(content) != token:
            raise UserError(
                f"vocab.json gives {content!r} the id {token}, tokenizer.json {ids.get(content)}; "
                "make them agree or delete vocab.json"
            )
    return {content: mapping[token] for content, token in vocab.items() if token in mapping}


def _prune_lines(path: Path, ids: Mapping[str, int], mapping: Mapping[int, int]) -> bytes:
    """``vocab.txt``: one token a line, in the order of their ids."""
    lines = read_text(path).removesuffix("\n").split("\n")
    for number, line in enumerate(lines):
        if ids.get(line) != number:
            raise UserError(
                f"vocab.txt gives {line!r} the id {number}, tokenizer.json {ids.get(line)}; "
                "make them agree or delete vocab.txt"
            )
    return "".join(f"{line}\n" for number, line in enumerate(lines) if number in mapping).encode()


def _prune_merges(path: Path, old: Json, new: Json) -> bytes:
    lines = read_text(path).split("\n")
    header = lines[:1] if lines[0].startswith("#version") else []
    if [line for line in lines[len(header) :] if line] != _merge_lines(old):
        raise UserError(
            "merges.txt: the merges are not those of tokenizer.json; "
            "make them agree or delete merges.txt"
        )
    return "\n".join([*header, *_merge_lines(new), ""]).encode()


def _merge_lines(model: Json) -> list[str]:
    return [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]


def _read_json(path: Path) -> Json | None:
    return read_json_object(path) if path.is_file() else None
