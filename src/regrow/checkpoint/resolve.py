"""Find the local directory of a model that a user names: a path, a GGUF file, or a hub id."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

from regrow.common.errors import UserError, one_line
from regrow.common.files import cache_directory, from_home
from regrow.common.run_directory import is_run, model_of_run

_HUB_ID = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.][\w./-]*))?", re.ASCII
)
# Download the weights under the name that transformers reads, the files of config and tokenizer,
# the card and the licence: no pickles, no code, no second copy of the weights (consolidated*,
# original/, onnx/).
# Folders can only be excluded, so _IGNORED names all but additional_chat_templates and 1_Pooling.
_ALLOWED = (
    "model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm",
    "bpe.codes", "README.md", "LICENSE*", "NOTICE*",
)  # fmt: skip
_IGNORED = ("[!a1]*/*", "a[!d]*/*", "*requirements*.txt")

_log = logging.getLogger(__name__)


def resolve_model(
    model: str, cache: Path | None, notify: Callable[[str], None] = _log.info
) -> Path:
    """The local directory of `model`: a directory, a .gguf file, or `owner/name[@revision]`.

    A directory of a run stands for its model, and `notify` gets a line that says so.
    A GGUF file is converted once, under `cache` (None: `$XDG_CACHE_HOME/regrow`), and found again
    by its SHA-256 and the version of the conversion. A hub id is downloaded, without pickles or
    code, into `cache` (None: the hub's own cache). `notify` gets a line before a conversion and
    before a download.

    Raises:
        UserError: the path or repository does not exist, or cannot be converted or downloaded.
    """
    path = from_home(Path(model))
    if path.is_dir():
        return directory_of(path, notify)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise UserError(f"{path}: is a file; give the directory that holds it, or a .gguf file")
        return _convert_once(path, cache, notify)
    match = _HUB_ID.fullmatch(model)
    if match is None or model.lower().endswith((".gguf", ".safetensors")):
        raise UserError(
            f"{model}: no such directory; give one, a .gguf file, or a hub id as "
            f"owner/name[@revision]"
        )
    return _download(match["repo"], match["revision"], cache, notify)


def directory_of(path: Path, notify: Callable[[str], None] = _log.info) -> Path:
    """The directory of a model: `path`, or if that is the directory of a run, its model.

    Raises UserError if the run is not finished.
    """
    if not is_run(path):
        return path
    model = model_of_run(path)
    notify(f"{path} is a run; its model is {model}")
    return model


def _convert_once(gguf: Path, cache: Path | None, notify: Callable[[str], None]) -> Path:
    from regrow.checkpoint.gguf import CONVERSION, convert_gguf, file_sha256

    cache = cache or cache_directory()
    try:
        name = f"{gguf.stem}-{file_sha256(gguf)[:16]}-v{CONVERSION}"
        directory = cache / "gguf" / name
        if directory.is_dir():
            return directory
        notify(f"converting {gguf} to {directory} (bfloat16, once)")
        convert_gguf(gguf, directory, notify)
    except OSError as error:
        raise UserError(f"{error.filename or gguf}: {error.strerror or error}") from error
    return directory


def _download(
    repo: str, revision: str | None, cache: Path | None, notify: Callable[[str], None]
) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    name = repo if revision is None else f"{repo}@{revision}"
    notify(f"fetching {name} from the Hugging Face hub (or its cache)")
    # HTTPError of httpx or of httpx2, depending on the version of huggingface_hub.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    local = "a local path would start with ./ or /"
    try:
        directory = Path(
            huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                cache_dir=cache,
                allow_patterns=list(_ALLOWED),
                ignore_patterns=list(_IGNORED),
            )
        )
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name}: access is gated; accept its terms at https://huggingface.co/{repo} and run: "
            f"hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{name}: no such repository, or a private one; {local}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name}: the repository has no revision {revision!r}") from error
    except errors.HFValidationError as error:
        raise UserError(
            f"{name}: is not a valid hub id (owner/name[@revision]); {local}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise UserError(
            f"{name}: is not in the hub's cache, and the hub cannot be reached (no network, or "
            f"HF_HUB_OFFLINE is set); {local}"
        ) from error
    except (http_error, OSError) as error:
        reason = one_line(str(error))[:200]
        raise UserError(f"{name}: the download failed ({reason}); run again to go on") from error
    if (
        not any(directory.glob("model*.safetensors"))
        and not (directory / "adapter_config.json").exists()
    ):
        raise UserError(
            f"{name}: has no model*.safetensors; fetch what it has (hf download {repo} --local-dir "
            f"DIR) and give that directory, to be told how to convert it"
        )
    return directory
