"""The small files of a model directory: tokenizer, templates, licences, but not the config."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from regrow.common.errors import UserError

_PATTERNS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "tokenizer.model.v*",
    # Vocabularies of Mistral, Marian, FSMT, PhoBERT, BARTpho, MyT5 and Japanese GPT-NeoX.
    "tekken.json", "*.spm", "target_vocab.json", "vocab-*.json", "bpe.codes", "dict.txt",
    "byte_maps.json", "emoji.json",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
    "LICENSE*", "NOTICE*", "regrow_*.json",
    # Of multimodal models and of sentence-embedding models.
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "normalizer.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "*_Pooling/config.json",
)  # fmt: skip
_TEXT_SUFFIXES = ("", ".txt", ".md", ".rst")
"""Of licences and notices."""
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n")
"""The first line of a vocabulary of tiktoken: a token in base64, and its rank."""
_MAX_BYTES = 256 << 20
SOURCE_FILE = "regrow_source.json"
"""What a conversion leaves in its directory about the file that was converted."""
CARD_FILE, HISTORY_FILE = "README.md", "regrow_history.json"
"""What describes a model. Each writer of a model makes them anew, so they are no companions."""


def companion_files(directory: Path) -> dict[str, Path]:
    """Paths of tokenizer, generation config, templates, licences and regrow's own files, by name.

    A name is the path relative to the directory, with slashes. Only listed patterns are taken, so
    that no code, pickle or second set of weights is copied.

    Raises UserError if one of them is a link to a file outside of the directory. The files of a
    snapshot in the cache of the Hugging Face hub may be links to its blobs.
    """
    found = {path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()}
    companions = {}
    for path in sorted(found):
        if path.name == HISTORY_FILE or path.stat().st_size > _MAX_BYTES or not _is_data(path):
            continue
        check_place(directory, path)
        companions[path.relative_to(directory).as_posix()] = path
    return companions


def check_place(directory: Path, path: Path) -> None:
    """Raise UserError if a file of a model is a link to a file outside of its directory.

    It is for the files that are passed on as they are. Weights may lie anywhere: they are read only
    as safetensors, and only the tensors that the architecture has are passed on.
    """
    try:
        real = path.resolve()
    except (RuntimeError, OSError):  # the former in Python 3.11, the latter in later ones
        raise UserError(f"{path}: a link that leads back to itself; remove it") from None
    if not any(real.is_relative_to(place) for place in _places(directory)):
        raise UserError(
            f"{path}: a link that leads out of the directory; put a copy of the file there, or "
            "remove the link"
        )


def _places(directory: Path) -> Iterator[Path]:
    """The directories in which the files of a model may lie."""
    own = directory.resolve()
    yield own
    for parent in own.parents:  # a model may lie in a folder of the snapshot
        if parent.name == "snapshots":
            yield parent.parent / "blobs"


def _is_data(path: Path) -> bool:
    """Whether a file that matches a pattern can be what its name says."""
    if path.name.startswith(("LICENSE", "NOTICE")):
        suffix = path.suffix.lower()
        return suffix in _TEXT_SUFFIXES or suffix[1:].isdigit()  # LICENSE-APACHE-2.0
    if ".model" not in path.name and path.suffix != ".spm":
        return True
    with path.open("rb") as file:
        head = file.read(64)
    # A message of sentencepiece begins with a piece, which is field 1.
    return head.startswith(b"\n") or _TIKTOKEN.match(head) is not None


def read_companions(directory: Path) -> dict[str, bytes]:
    """The contents of :func:`companion_files`, by name."""
    return {name: path.read_bytes() for name, path in companion_files(directory).items()}


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write small files in the order of the mapping; names as in :func:`companion_files`."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
