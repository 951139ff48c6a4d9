"""The small files that belong to a model beside its weights and config."""

from pathlib import Path

_FORMS = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template*", "LICENSE*", "NOTICE*",
    "regrow_*.json",
)  # fmt: skip
_LARGEST = 256 << 20


def companion_files(directory: Path) -> list[Path]:
    """Tokenizer, generation config, templates, licences, and what regrow wrote: by name.

    Named one by one, so that no code, pickle or second set of weights is passed on.
    """
    found = {path for form in _FORMS for path in directory.glob(form) if path.is_file()}
    return sorted(path for path in found if path.stat().st_size <= _LARGEST)
