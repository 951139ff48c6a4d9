"""What transformers makes of a model directory, or one line on why it makes nothing.

Whatever the library raises at a config, a tokenizer or weights is its refusal: it documents no
exceptions, and its parts (tokenizers, safetensors) have their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError, one_line
from regrow.models.networks import register

if TYPE_CHECKING:
    import torch

_REASON_LENGTH = 200
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json")


def load_config(directory: Path) -> Any:
    """The config of a model directory. Raises UserError where transformers cannot load it."""
    import transformers

    register()
    with refusals(f"{directory}: a config that transformers cannot load"):
        return transformers.AutoConfig.from_pretrained(directory, **_LOCAL)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory. Raises UserError where transformers cannot load it."""
    import transformers

    register()

    with refusals(
        f"{directory}: no tokenizer that transformers can load", "put the model's own there"
    ):
        # Some classes (T5's) make up an empty one where there is no file.
        if not any(path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern)):
            raise FileNotFoundError("no file of one")
        return transformers.AutoTokenizer.from_pretrained(directory, **_LOCAL)


def _with_depth(config: Any) -> Any:
    """transformers 5.24 makes a T5's cache as deep as its encoder, unless it is told."""
    depth = getattr(config, "num_decoder_layers", None)
    if depth is not None and not hasattr(config, "decoder_layers"):
        config.decoder_layers = depth
    return config


def load_model(directory: Path, *, dtype: "torch.dtype | str" = "float32") -> Any:
    """The model of a directory with its head, in evaluation mode, on the CPU.

    `dtype`: of all parameters; "auto" takes that of the config or the file.

    Raises UserError where transformers cannot load it.
    """
    config = load_config(directory)
    with refusals(f"{directory}: a model that transformers cannot load"):
        made = _auto(config).from_pretrained(
            directory, config=_with_depth(config), dtype=dtype, **_LOCAL
        )
        return made.eval()


def load_meta_model(directory: Path, *, dtype: "torch.dtype") -> Any:
    """What `load_model` gives, all of it on the meta device.

    Raises UserError where transformers cannot build it.
    """
    import torch

    config = load_config(directory)
    with refusals(f"{directory}: a model that transformers cannot load"), torch.device("meta"):
        return _auto(config).from_config(_with_depth(config), dtype=dtype).eval()


def load_without_weights(directory: Path) -> Any:
    """What `load_model` gives, with float32 parameters on the meta device and buffers as they are.

    Needs accelerate. Raises UserError where transformers cannot build it.
    """
    import torch
    from accelerate import init_empty_weights

    config = load_config(directory)
    problem = f"{directory}: a model that transformers cannot load"
    with refusals(problem), init_empty_weights(include_buffers=False):
        return _auto(config).from_config(config, dtype=torch.float32).eval()


def _auto(config: Any) -> Any:
    import transformers

    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


# No code of the directory's own, and no question on the terminal whether to run it.
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@contextmanager
def refusals(problem: str, advice: str = "") -> Iterator[None]:
    """Turn whatever the library raises inside the block into a UserError: `problem (reason)`."""
    try:
        yield
    except Exception as error:
        reason = one_line(str(error))[:_REASON_LENGTH]
        if not isinstance(error, OSError | ValueError):  # the others may say no more than a key
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise UserError(f"{problem} ({reason})" + (f"; {advice}" if advice else "")) from error
