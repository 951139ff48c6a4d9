"""The small files that belong to a model beside its weights and config."""

from collections.abc import Mapping
from pathlib import Path

_FORMS = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template*",
    "additional_chat_templates/*.jinja", "LICENSE*", "NOTICE*", "regrow_*.json",
    # Of models that read more than text, and of those that give one vector for it.
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "normalizer.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "*_Pooling/config.json",
)  # fmt: skip
_LARGEST = 256 << 20


def companion_files(directory: Path) -> dict[str, Path]:
    """Tokenizer, generation config, templates, licences, and what regrow wrote: by name.

    A name is relative to the directory, with slashes. They are named one by one, so that no code,
    pickle or second set of weights is passed on.
    """
    found = {path for form in _FORMS for path in directory.glob(form) if path.is_file()}
    return {
        path.relative_to(directory).as_posix(): path
        for path in sorted(found)
        if path.stat().st_size <= _LARGEST
    }


def read_companions(directory: Path) -> dict[str, bytes]:
    """The contents of :func:`companion_files`, by name."""
    return {name: path.read_bytes() for name, path in companion_files(directory).items()}


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write small files, by the names that :func:`companion_files` gives, in their order."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
