"""Load configs, tokenizers and models with transformers; errors become one line.

Every exception of the library becomes a UserError, since transformers documents no exceptions, and
its parts (tokenizers, safetensors) raise their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.common.errors import UserError, one_line
from regrow.common.files import read_json_object
from regrow.common.progress import as_part
from regrow.models.networks import check_depth, register

if TYPE_CHECKING:
    import torch

_REASON_LENGTH = 200
_TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json", "*.spm", "bpe.codes",
)  # fmt: skip


def load_config(directory: Path) -> Any:
    """The config of a model directory. Raises UserError if transformers cannot load it."""
    import transformers

    register()
    path = directory / "config.json"
    values = read_json_object(path)
    _refuse_kernels(values, path)
    try:
        check_depth(values)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    with library_errors(f"{directory}: a config that transformers cannot load"):
        return transformers.AutoConfig.from_pretrained(directory, **LOCAL)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory. Raises UserError if transformers cannot load it."""
    import transformers

    register()
    with library_errors(
        f"{directory}: no tokenizer that transformers can load", "put the model's own there"
    ):
        # Some classes, such as T5's, give an empty tokenizer if there is no file.
        if not any(path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern)):
            raise FileNotFoundError("no file of one")
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **LOCAL)
        tokenizer("")  # some values of its config are wrong only where they are used
        return tokenizer


def _with_decoder_layers(config: Any) -> Any:
    """The config with `decoder_layers` set.

    Without it, transformers 5.24 gives a T5 a cache as deep as its encoder.
    """
    depth = getattr(config, "num_decoder_layers", None)
    if depth is not None and not hasattr(config, "decoder_layers"):
        config.decoder_layers = depth
    return config


def load_model(directory: Path, *, dtype: "torch.dtype | str" = "float32") -> Any:
    """The model of a directory with its head, in evaluation mode, on the CPU.

    `dtype`: of all parameters; "auto" takes the dtype of the config or of the file.

    Raises UserError if transformers cannot load it.
    """
    config = load_config(directory)
    _refuse_encoder(directory, config)
    problem = f"{directory}: a model that transformers cannot load"
    with library_errors(problem), as_part("loading the model"):
        model, loading = _auto_class(config).from_pretrained(
            directory, config=_with_decoder_layers(config), dtype=dtype, use_safetensors=True,
            output_loading_info=True, **LOCAL,
        )  # fmt: skip
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            f"{directory}: {missing[0]}: missing, though {type(model).__name__} has it; fetch the "
            "model again"
        )
    if unread := sorted(filter(partial(_is_switched_off, model), loading["unexpected_keys"])):
        raise UserError(
            f"{directory}: {unread[0]}: in the files, but {type(model).__name__} has no such "
            "parameter with this config.json; take the config of these weights"
        )
    return model.eval()


def _refuse_encoder(directory: Path, config: Any) -> None:
    """Raise UserError for an encoder without a decoder (BERT), which predicts no next token.

    transformers would load it as a decoder.
    """
    named = next(iter(getattr(config, "architectures", None) or ()), "")
    is_decoder = config.is_encoder_decoder or getattr(config, "is_decoder", False)
    if named.endswith("ForMaskedLM") and not is_decoder:
        raise UserError(
            f"{directory}: {named} is an encoder alone, which writes no text; only its vocabulary "
            "can be cut"
        )


def _is_switched_off(model: Any, name: str) -> bool:
    """Whether the class has this parameter with another config.

    Other tensors that it does not read may be buffers that it computes, or another head.
    """
    holder, _, last = name.rpartition(".")
    try:
        parameters = model.get_submodule(holder)._parameters
    except AttributeError:
        return False
    return last in parameters and parameters[last] is None


def load_meta_model(directory: Path, *, dtype: "torch.dtype") -> Any:
    """The model of `load_model`, without weights: all tensors are on the meta device.

    Raises UserError if transformers cannot build it.
    """
    import torch

    config = load_config(directory)
    with (
        library_errors(f"{directory}: a model that transformers cannot load"),
        torch.device("meta"),
    ):
        return build_model(_with_decoder_layers(config), dtype).eval()


def load_without_weights(directory: Path) -> Any:
    """The model of `load_model`, with float32 parameters on the meta device and real buffers.

    Needs accelerate. Raises UserError if transformers cannot build it.
    """
    import torch
    from accelerate import init_empty_weights

    config = load_config(directory)
    problem = f"{directory}: a model that transformers cannot load"
    with library_errors(problem), init_empty_weights(include_buffers=False):
        return build_model(config, torch.float32).eval()


def build_model(config: Any, dtype: "torch.dtype") -> Any:
    """A model with its head and freshly drawn weights, of transformers' own class.

    Raises whatever the class raises for a config that it refuses.
    """
    return _auto_class(config).from_config(config, dtype=dtype, trust_remote_code=False)


def _auto_class(config: Any) -> Any:
    import transformers

    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Arguments of every `from_pretrained` of an Auto class.

They never run code from the directory. Without them, transformers asks on the terminal whether to
run it.
"""


def _refuse_kernels(config: dict[str, Any], path: Path) -> None:
    """Raise UserError if a config names an implementation of attention on the hub.

    The `kernels` package would download and run its code.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            _refuse_kernels(value, path)
        elif "implementation" in key and isinstance(value, str) and "/" in value:
            raise UserError(
                f"{path}: {key} is {value!r}, code of the hub, which is not run; remove it"
            )


@contextmanager
def library_errors(problem: str, advice: str = "") -> Iterator[None]:
    """Context manager: turn any exception of the library into a UserError.

    Its text is `problem (reason); advice`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = one_line(str(error))[:_REASON_LENGTH]
        if not isinstance(
            error, OSError | ValueError
        ):  # a KeyError's text, for example, is only a key
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise UserError(f"{problem} ({reason})" + (f"; {advice}" if advice else "")) from error
