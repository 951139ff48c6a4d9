"""Read the configuration of a corpus from YAML; an error is one line with file, line and key."""

from pathlib import Path

from regrow.cleaning.config import CorpusConfig, CorpusSource
from regrow.cleaning.steps import STEPS
from regrow.common.files import from_home
from regrow.common.yaml_file import map_paths, parse_yaml, read_yaml_text

_WHAT = "configuration of a corpus"


def load_config(path: Path) -> CorpusConfig:
    """Read a configuration. Relative paths in it are relative to its directory.

    Raises UserError, with file, line and key, at the first mistake.
    """
    text = read_yaml_text(path, _WHAT)
    config, _ = parse_yaml(text, path, CorpusConfig, _WHAT, tuple(STEPS.values()))

    def resolve(written: Path) -> Path:
        return path.parent / from_home(written)

    resolved = map_paths(config, resolve)
    assert isinstance(resolved, CorpusConfig)
    sources = tuple(_with_dataset(source, path.parent) for source in resolved.sources)
    update: dict[str, object] = {"sources": sources}
    if config.tokenise is not None:
        update["tokenise"] = _nearby(config.tokenise, path.parent)
    return resolved.model_copy(update=update)


def _with_dataset(source: CorpusSource, directory: Path) -> CorpusSource:
    if source.dataset is None:
        return source
    return source.model_copy(update={"dataset": _nearby(source.dataset, directory)})


def _nearby(name: str, directory: Path) -> str:
    """A path if there is one of this name, relative to the directory; else the name."""
    path = directory / from_home(Path(name))
    return str(path) if path.exists() else name
