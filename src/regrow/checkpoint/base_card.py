"""What the card of a base model says that holds for its smaller versions too: licence, language.

It is the metadata of README.md, or, of a converted GGUF file, the metadata of that file. It was
written by others, so a value in another form than the hub's is left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regrow.checkpoint.companions import CARD_FILE, SOURCE_FILE, companion_files
from regrow.checkpoint.hub_licences import HUB_LICENCES, LICENCE_LINKS, OTHER
from regrow.common.errors import UserError
from regrow.common.files import read_json_object
from regrow.common.printable import printable

_LARGEST = 4 << 20
"""Bytes of a card that is read."""
_LARGEST_METADATA = 256 << 10
"""Characters of its metadata without measured scores; PyYAML needs seconds for as many."""
_SCORES = re.compile(r"^model-index:.*\n(?:[ \-#].*\n|\n)*", re.MULTILINE)
"""The scores in metadata. Models that turn text into vectors have a megabyte of them."""
_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}", re.ASCII)
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z-]{1,15}", re.ASCII)
_URL = re.compile(r"https?://[!-;=?-~]{1,300}", re.ASCII)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_REPOSITORY = re.compile(r"(?:https?://(?:www\.)?huggingface\.co/)?([^/\s]+/[^/\s]+?)/?", re.ASCII)
_MOST_LANGUAGES = 200


def card_facts(directory: Path, hub_id: str | None) -> dict[str, Any]:
    """Licence, languages and task of a base model, by the keys of a card's metadata.

    `hub_id`: where the model is on the hub; None if that is not known. What the model does not say
    is left out.
    """
    source = read_source(directory)
    found = valid_facts(read_metadata(directory / CARD_FILE) or source)
    if hub_id is None and found.get("license", OTHER) not in HUB_LICENCES:
        # What stands on the hub was accepted there; a local card or a GGUF file can say anything.
        found.setdefault("license_name", found["license"])
        found["license"] = OTHER
    link = found.get("license_link")
    is_here = link in LICENCE_LINKS and link in companion_files(directory)
    if link is not None and not _URL.fullmatch(link) and not is_here:
        # A relative link holds in the repository of the base.
        del found["license_link"]
        if hub_id is not None and re.fullmatch(r"[\w.-]{1,100}", link, re.ASCII):
            found["license_link"] = f"https://huggingface.co/{hub_id}/blob/main/{link}"
    return found


def read_source(directory: Path) -> dict[str, Any]:
    """What a converted directory says of the file it was made from; empty for any other."""
    path = directory / SOURCE_FILE
    return read_json_object(path) if path.is_file() else {}


def source_file(directory: Path) -> str | None:
    """The name of the file that a directory was converted from; None if nothing was converted."""
    file = read_source(directory).get("file")
    return _one_line(Path(file).name) if isinstance(file, str) and file.strip() else None


def source_name(directory: Path) -> str | None:
    """The name of the model in a converted file; None if nothing was converted."""
    name, file = read_source(directory).get("name"), source_file(directory)
    if isinstance(name, str) and name.strip():
        return _one_line(name)
    return None if file is None else Path(file).stem


def _one_line(name: str) -> str:
    return " ".join(printable(name).split())[:100]


def hub_id_of(directory: Path) -> tuple[str | None, str | None]:
    """Where a model is on the hub, and its commit; None for what is not known.

    A directory in the cache of the hub tells it by its path, a converted file by its metadata.
    """
    place = directory.resolve()
    parent = place.parent
    if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
        name = parent.parent.name.removeprefix("models--").replace("--", "/")
        if is_hub_id(name):
            return name, place.name if is_revision(place.name) else None
    repository = read_source(directory).get("repository")
    if isinstance(repository, str) and (match := _REPOSITORY.fullmatch(repository)):
        return (match[1], None) if is_hub_id(match[1]) else (None, None)
    return None, None


def is_hub_id(name: str) -> bool:
    """Whether a text has the form of a hub id: `owner/name`, or the name of an old model alone."""
    return _HUB_NAME.fullmatch(name) is not None


def is_revision(text: str) -> bool:
    """Whether a text has the form of a commit on the hub."""
    return re.fullmatch(r"[0-9a-f]{40}", text) is not None


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a card; empty without a card or without metadata.

    Raises UserError if there is metadata that cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _LARGEST:
            raise _unreadable(path, f"in a card of more than {_LARGEST >> 20} MB")
        return _parse_metadata(path, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise _unreadable(path, "not YAML in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse_metadata(path: Path, card: str) -> dict[str, Any]:
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(card)
    text = "" if block is None else _SCORES.sub("", f"{block[2]}\n")
    if len(text) > _LARGEST_METADATA:
        raise _unreadable(path, f"more than {_LARGEST_METADATA >> 10} kB")
    try:
        found = yaml.safe_load(text)
    except (
        yaml.YAMLError, RecursionError,
        # PyYAML raises these at scalars with a tag that they do not fit.
        ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    ):  # fmt: skip
        raise _unreadable(path, "not YAML in UTF-8") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _unreadable(path, "not YAML in UTF-8 with keys")
    return found


def _unreadable(path: Path, what: str) -> UserError:
    return UserError(
        f"{path}: its metadata (between the lines ---) is {what}, so the licence of the model is "
        "not known; mend it, or remove the file"
    )


def valid_facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that hold for a smaller version too and have the form that the hub wants."""
    found: dict[str, Any] = {}
    for key in ("license", "pipeline_tag"):
        value = metadata.get(key)
        if isinstance(value, str) and _ID.fullmatch(value.lower()):
            found[key] = value.lower()
    for key in ("license_name", "license_link"):
        value = metadata.get(key)
        if "license" in found and isinstance(value, str) and 0 < len(value.strip()) <= 300:
            found[key] = " ".join(printable(value).split())
    language = metadata.get("language")
    listed = [language] if isinstance(language, str) else language
    if isinstance(listed, list):
        # YAML reads the language `no` (Norwegian) as false.
        names = ["no" if each is False else each for each in listed]
        fitting = [each for each in names if isinstance(each, str) and _LANGUAGE.fullmatch(each)]
        if fitting and len(fitting) <= _MOST_LANGUAGES:
            found["language"] = fitting
    return found
