"""Convert a GGUF file to a plain Hugging Face directory, with transformers' own loader.

The loader restores weights, sizes and vocabulary. It drops pre-tokenizers that it does not know,
`ignore_merges`, and a BOS token that the file leaves to the default. This module restores these
from the file's metadata (key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), and
`gguf_config` what the loader drops of the config.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from regrow.checkpoint.companions import SOURCE_FILE
from regrow.checkpoint.gguf_config import repaired_config, rope_scaling
from regrow.checkpoint.gguf_header import check_header, check_types
from regrow.checkpoint.reader import CONFIG_FILE
from regrow.checkpoint.writer import (
    library_weights,
    partial_directory,
    publish,
    small_files,
)
from regrow.common.errors import UserError
from regrow.common.files import json_bytes
from regrow.common.progress import as_part, told
from regrow.common.publishing import make_directory, workplace
from regrow.models.loading import LOCAL, library_errors

CONVERSION = 2
"""Names the results of this code in a cache. Raise it with each change that alters them."""

# How llama.cpp treats a byte-level vocabulary, by `tokenizer.ggml.pre` (src/llama-vocab.cpp). The
# first two sets leave out names that transformers knows: it gives them a `Split` itself.
_DIGIT_SPLITTING = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
_GPT2_SPLITTING = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"})
_IGNORE_MERGES_AND_ADD_BOS = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
    | {"jina-v5-nano", "tekken"}
)


def convert_gguf(gguf: Path, directory: Path, notify: Callable[[str], None]) -> None:
    """Write the model and tokenizer of `gguf` to a new `directory`, weights in bfloat16.

    The directory is written whole or not at all. Its `regrow_source.json` records the source file.
    `notify` gets a line about each property that the file leaves uncertain.

    Raises:
        UserError: the file is not a complete GGUF file, or transformers cannot load it.
    """
    reader, metadata = _open(gguf)
    _check_metadata(gguf, metadata)
    _check_width(gguf, metadata, reader)
    scaling = rope_scaling(gguf, metadata, reader)
    quantisation = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    del reader  # the reader maps the file into memory
    make_directory(directory.parent)
    # Another process may be converting the same file: then this one takes its directory.
    with workplace(directory, wait=True) as place, partial_directory(directory, place) as partial:
        if directory.is_dir():
            return
        link = _alone(gguf, place / "source")
        with library_errors(f"{gguf}: transformers cannot load it"):
            loaded = _load_config(link)
            # What cannot be known of the config ends the work here, before the weights are read.
            repaired_config(gguf, loaded.to_dict(), metadata, scaling)
            model, tokenizer, misfits = _load(link, metadata, loaded.is_encoder_decoder)
        if misfits:
            raise UserError(
                f"{gguf}: {len(misfits)} tensors do not fit the architecture, such as "
                f"{misfits[0]}; start from the model's own safetensors"
            )
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        weights = library_weights(model, partial)
        written = json.loads((partial / CONFIG_FILE).read_text(encoding="utf-8"))
        config = repaired_config(gguf, written, metadata, scaling)
        _repair_generation_config(partial)
        _repair_tokenizer(gguf, partial, metadata, notify)
        source = {
            "file": gguf.name,
            "sha256": file_sha256(gguf),
            "format": "gguf",
            "tensor_types": quantisation,
            "dtype": "bfloat16",
            **_card_facts(metadata),
            "versions": {name: version(name) for name in ("regrow", "transformers", "gguf")},
        }
        files = {SOURCE_FILE: json_bytes(source)}
        publish(partial, directory, weights, small_files(config, files, weights))


_CARD_KEYS = {
    "name": ("general.name",),
    "repository": (
        "general.source.huggingface.repository", "general.source.repo_url", "general.repo_url",
    ),
    "license": ("general.license",),
    "license_name": ("general.license.name",),
    "license_link": ("general.license.link",),
    "language": ("general.languages",),
}  # fmt: skip
"""The metadata that a card of the model holds too, by its name there."""


def _card_facts(metadata: dict[str, Any]) -> dict[str, Any]:
    """Name, repository, licence and languages of the model, as far as the file says them."""
    found = {}
    for name, keys in _CARD_KEYS.items():
        values = (metadata[key] for key in keys if key in metadata)
        value = next((each for each in values if isinstance(each, str | list) and each), None)
        if value is not None:
            found[name] = value
    return found


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(gguf: Path) -> tuple[Any, dict[str, Any]]:
    """The reader of a file, and its metadata without the vocabulary."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(
            f"{gguf}: reading GGUF needs the gguf package; run: pip install 'regrow[gguf]'"
        ) from error
    check_header(gguf)
    try:
        reader = GGUFReader(gguf)
        return reader, {
            key: field.contents()
            for key, field in reader.fields.items()
            if len(field.data) < 64  # leave the vocabulary to transformers
        }
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, struct.error) as error:
        raise UserError(f"{gguf}: truncated or corrupt GGUF file; fetch it again") from error


def _check_width(gguf: Path, metadata: dict[str, Any], reader: Any) -> None:
    """Raise UserError if the embedding has another width; memory for it would be asked for."""
    key = f"{metadata['general.architecture']}.embedding_length"
    for tensor in reader.tensors:
        width = int(tensor.shape[0])
        if tensor.name == "token_embd.weight" and metadata.get(key, width) != width:
            raise UserError(f"{gguf}: {key} is {metadata[key]}, but the embedding has {width}")


def _check_metadata(gguf: Path, metadata: dict[str, Any]) -> None:
    check_types(gguf, metadata)
    if "general.architecture" not in metadata:
        raise UserError(f"{gguf}: general.architecture is missing; a model's GGUF was expected")
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise UserError(f"{gguf}: general.type is {kind!r}; a whole model was expected")
    if metadata.get("split.count", 1) > 1:
        raise UserError(
            f"{gguf}: one of {metadata['split.count']} parts (split.count); join them first: "
            f"llama-gguf-split --merge FIRST_PART OUT.gguf"
        )


def _load_config(gguf: Path) -> Any:
    """The config, by transformers."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name, **LOCAL)


def _load(
    gguf: Path, metadata: dict[str, Any], is_encoder_decoder: bool
) -> tuple[Any, Any, list[str]]:
    """Model and tokenizer, by transformers; the names of tensors that do not fit the model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GgufConfig

    folder, file = gguf.parent, {"gguf_file": gguf.name, **LOCAL}
    auto = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    with _watching_tensors() as tensors:
        model, loading = auto.from_pretrained(
            folder,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            **file,
        )
    bos = {}
    if (
        metadata.get("tokenizer.ggml.pre") in _IGNORE_MERGES_AND_ADD_BOS
        and "tokenizer.ggml.add_bos_token" not in metadata
    ):
        bos = {"add_bos_token": True}
    with as_part("converting the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **file, **bos)
    length = getattr(model.config, "max_position_embeddings", None)
    if length is not None:
        tokenizer.model_max_length = length
    misfits = sorted(tensors.passed_over() | loading["missing_keys"] | loading["unexpected_keys"])
    return model, tokenizer, misfits + [str(key) for key in loading["mismatched_keys"]]


@dataclass
class _Tensors:
    """The tensors of a file by their names there, and those names that transformers reads."""

    found: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)

    def passed_over(self) -> set[str]:
        """Tensors that the model would silently lack, such as biases of a Llama.

        `rope_freqs.weight` is read by regrow, and tensors of experts have several names.
        """
        return {
            name
            for name in self.found - self.read
            if name != "rope_freqs.weight" and "exp" not in name
        }


@contextmanager
def _watching_tensors() -> Iterator[_Tensors]:
    """Context manager: transformers' loop over the tensors of a file tells how far it is.

    Gives the names of the tensors. That loop passes over those that it does not know.
    """
    from transformers import modeling_gguf_pytorch_utils as library

    seen, bar, names_of = _Tensors(), library.tqdm, library.get_gguf_hf_weights_map

    def tell(tensors: Any, **_: Any) -> Any:
        tensors = list(tensors)
        seen.found.update(tensor.name for tensor in tensors)
        return told(tensors, "converting, tensor")

    def noted_names(*args: Any, **options: Any) -> Any:
        names = names_of(*args, **options)
        seen.read.update(names)
        return names

    library.tqdm, library.get_gguf_hf_weights_map = tell, noted_names
    try:
        yield seen
    finally:
        library.tqdm, library.get_gguf_hf_weights_map = bar, names_of


def _alone(gguf: Path, folder: Path) -> Path:
    """A link to the file in a new folder, in which it lies alone.

    In the file's own folder, transformers would also read a config or a tokenizer's config beside
    it. The cache knows a conversion only by the file.
    """
    folder.mkdir()
    link = folder / gguf.name
    link.symlink_to(gguf.resolve())
    return link


def _repair_generation_config(directory: Path) -> None:
    path = directory / "generation_config.json"
    if path.exists():
        # With this mark, transformers ignores the file and derives another one from config.json.
        generation = json.loads(path.read_text(encoding="utf-8"))
        generation.pop("_from_model_config", None)
        path.write_bytes(json_bytes(generation))


def _repair_tokenizer(
    gguf: Path, directory: Path, metadata: dict[str, Any], notify: Callable[[str], None]
) -> None:
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    name = metadata.get("tokenizer.ggml.pre")
    pre_tokenizer = tokenizer["pre_tokenizer"]
    if metadata.get("tokenizer.ggml.model") == "gpt2":
        if name in _IGNORE_MERGES_AND_ADD_BOS:
            tokenizer["model"]["ignore_merges"] = True
        if pre_tokenizer["type"] == "ByteLevel":  # transformers did not know the name
            if name in _DIGIT_SPLITTING:
                digits = {"type": "Digits", "individual_digits": True}
                tokenizer["pre_tokenizer"] = {
                    "type": "Sequence",
                    "pretokenizers": [digits, pre_tokenizer],
                }
            elif name not in _GPT2_SPLITTING:
                notify(
                    f"{gguf.name}: tokenizer.ggml.pre is {name!r}, an unknown pre-tokenizer; text "
                    f"is split as GPT-2 does, so some ids may differ from the original's"
                )
    path.write_bytes(json_bytes(tokenizer, indent=None))

    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "name_or_path"):
        config.pop(key, None)
    path.write_bytes(json_bytes(config))
    if not metadata.get("tokenizer.chat_template"):
        notify(f"{gguf.name}: has no chat template (tokenizer.chat_template)")
