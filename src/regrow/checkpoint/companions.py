"""The small files of a model directory: tokenizer, templates, licences, but not the config."""

from collections.abc import Mapping
from pathlib import Path

_PATTERNS = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template*",
    "additional_chat_templates/*.jinja", "LICENSE*", "NOTICE*", "regrow_*.json",
    # Of multimodal models and of sentence-embedding models.
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "normalizer.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "*_Pooling/config.json",
)  # fmt: skip
_MAX_BYTES = 256 << 20


def companion_files(directory: Path) -> dict[str, Path]:
    """Paths of tokenizer, generation config, templates, licences and regrow's own files, by name.

    A name is the path relative to the directory, with slashes. Only listed patterns are taken, so
    that no code, pickle or second set of weights is copied.
    """
    found = {path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()}
    return {
        path.relative_to(directory).as_posix(): path
        for path in sorted(found)
        if path.stat().st_size <= _MAX_BYTES
    }


def read_companions(directory: Path) -> dict[str, bytes]:
    """The contents of :func:`companion_files`, by name."""
    return {name: path.read_bytes() for name, path in companion_files(directory).items()}


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write small files in the order of the mapping; names as in :func:`companion_files`."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
