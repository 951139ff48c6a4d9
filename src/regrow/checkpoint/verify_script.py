"""The script that `verify` runs in a process without regrow: python -I FILE JSON

The argument is a JSON list of [directory, why its code must not run, or null]. The script loads
each directory as any user of transformers would. It prints a JSON list with one object for each
directory: {"directory": ..., "checks": [[name, ok, detail], ...]}.
"""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "tokenizer_config.json", "vocab.json",
    "vocab.txt",
)  # fmt: skip
ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
SAMPLED_TOKENS = 200
NEW_TOKENS = 8


class FailedCheckError(Exception):
    """A check failed; the message says what is wrong."""


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(" ".join(record.getMessage().split()))


@contextlib.contextmanager
def _warnings_of_transformers() -> Iterator[list[str]]:
    collector = _Collector()
    logger = logging.getLogger("transformers")
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)


def check_directory(directory: Path, why_untrusted: str | None) -> list[tuple[str, bool, str]]:
    """All checks of one directory, in order, as (name, ok, detail).

    If config or model does not load, the checks end there, with that check as failed.
    `why_untrusted`: why the code of the directory must not run; None if it may. It matters only for
    a directory that does not load without its own code.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    checks: list[tuple[str, bool, str]] = []

    def check(name: str, action: Callable[[], Any]) -> Any:
        try:
            result = action()
        except FailedCheckError as error:
            checks.append((name, False, str(error)))
        except Exception as error:  # noqa: BLE001  # a broken directory can make a library raise anything
            detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if why_untrusted is not None and "trust_remote_code" in detail:
                detail = f"the directory's own code, not run: {why_untrusted}"
            checks.append((name, False, detail))
        else:
            checks.append((name, True, result if isinstance(result, str) else ""))
            return result
        return None

    options = {"trust_remote_code": why_untrusted is None, "local_files_only": True}
    with _warnings_of_transformers() as warnings:
        config = check("config loads", lambda: AutoConfig.from_pretrained(directory, **options))
        if config is None:
            return checks
        tokenizer = None
        if any((directory / name).exists() for name in TOKENIZER_FILES):
            tokenizer = check(
                "tokenizer loads", lambda: AutoTokenizer.from_pretrained(directory, **options)
            )
        else:
            checks.append(("tokenizer loads", True, "no tokenizer"))
        loaded = check(
            "model loads",
            lambda: class_for(config).from_pretrained(
                directory, dtype="auto", output_loading_info=True, use_safetensors=True, **options
            ),
        )
    if loaded is None:
        return checks
    model, loading = loaded
    model.eval()
    rows = model.get_input_embeddings().weight.shape[0]

    check("keys", lambda: check_keys(loading))
    check("no warnings", lambda: _fail_if(" | ".join(warnings)))
    check("weights are finite", lambda: check_weights(model))
    check("ids lie in the vocabulary", lambda: check_ids(directory, rows))
    if config.is_encoder_decoder:
        check("decoder start", lambda: check_decoder_start(model))
    if tokenizer is not None:
        check("ids agree with the tokenizer", lambda: check_agreement(model, tokenizer))
        check("tokenizer fits the embedding", lambda: check_size(tokenizer, rows))
        check("tokenizer round trip", lambda: check_round_trip(tokenizer))
    with torch.inference_mode():
        ids = torch.arange(min(NEW_TOKENS, rows))[None]
        check("forward", lambda: check_forward(model, ids, rows))
        if not model.can_generate():
            return checks
        greedy = GenerationConfig.from_dict(
            {**model.generation_config.to_dict(), "do_sample": False, "num_beams": 1}
            | {"max_new_tokens": NEW_TOKENS, "temperature": None, "top_p": None, "top_k": None}
        )
        check("greedy generation", lambda: check_generation(model, ids, rows, greedy))
    return checks


def class_for(config: Any) -> Any:
    """The auto class of transformers that loads the model class named in config.json."""
    import transformers
    from transformers.models.auto import modeling_auto

    named = (config.architectures or [None])[0]
    for auto, mapping in (
        ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING"),
        ("AutoModelForImageTextToText", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING"),
        ("AutoModel", "MODEL_MAPPING"),
    ):
        classes = getattr(modeling_auto, mapping)
        if type(config) in classes and getattr(classes[type(config)], "__name__", "") == named:
            return getattr(transformers, auto)
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def _fail_if(fault: str) -> None:
    if fault:
        raise FailedCheckError(fault)


def check_keys(loading: dict[str, Any]) -> None:
    """The files hold exactly the tensors of the model, in the right shapes."""
    faults = [
        f"{kind}: {', '.join(sorted(map(str, loading[kind])))}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        if loading.get(kind)
    ]
    _fail_if("; ".join(faults))


def check_weights(model: Any) -> None:
    """No parameter holds a NaN or an infinity."""
    import torch

    bad = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    _fail_if(", ".join(bad))


def _ids(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """All token ids in the JSON of a config, also in nested configs and lists, with their keys."""
    if isinstance(value, dict):
        for name, item in value.items():
            nested = isinstance(item, dict)
            if nested or name in ID_LISTS or name.endswith(("_token_id", "_token_ids")):
                yield from _ids(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            yield from _ids(item, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value


def check_ids(directory: Path, rows: int) -> None:
    """Every token id in config.json and generation_config.json has a row in the embedding."""
    faults = []
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        if path.exists():
            for key, value in _ids(json.loads(path.read_text(encoding="utf-8"))):
                if not 0 <= value < rows:
                    faults.append(f"{name}: {key} is {value}, outside 0..{rows - 1}")
    _fail_if("; ".join(faults))


def check_decoder_start(model: Any) -> None:
    """The configs of an encoder-decoder name the first token of the decoder."""
    starts = [
        value
        for source in (model.generation_config, model.config)
        for key in ("decoder_start_token_id", "bos_token_id")
        if (value := getattr(source, key, None)) is not None
    ]
    _fail_if("" if starts else "decoder_start_token_id is set in neither config")


def check_agreement(model: Any, tokenizer: Any) -> None:
    """If a config and the tokenizer both name eos, bos or pad, they name the same token."""
    faults = []
    for kind in ("eos", "bos", "pad"):
        own = getattr(tokenizer, f"{kind}_token_id", None)
        for name, source in (
            ("config.json", model.config),
            ("generation_config.json", getattr(model, "generation_config", None)),
        ):
            value = getattr(source, f"{kind}_token_id", None)
            values = value if isinstance(value, list) else [value]
            if own is not None and value is not None and own not in values:
                faults.append(f"{name}: {kind}_token_id is {value}, the tokenizer's is {own}")
    _fail_if("; ".join(faults))


def check_size(tokenizer: Any, rows: int) -> None:
    """Every id of the tokenizer has a row in the embedding."""
    size = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))
    _fail_if(f"ids up to {size - 1}, but {rows} rows in the embedding" if size > rows else "")


def check_round_trip(tokenizer: Any) -> str:
    """Decoding, encoding and decoding again gives the same text, for tokens spread over all ids."""
    special = set(tokenizer.all_special_ids)
    vocabulary = sorted(set(tokenizer.get_vocab().values()) - special)
    checked = 0
    for token in vocabulary[:: max(1, len(vocabulary) // SAMPLED_TOKENS)]:
        text = tokenizer.decode([token]).strip()
        # Skip white space, parts of a character, and control characters, which many tokenizers
        # normalise away. Skip WordPiece's pieces inside a word: alone they decode with their "##".
        if not text or "\ufffd" in text or not text.isprintable() or text.startswith("##"):
            continue
        checked += 1
        decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)).strip()
        if decoded != text:
            raise FailedCheckError(f"token {token}: {text!r} becomes {decoded!r}")
    _fail_if("" if checked else "no token decodes to text")
    return f"{checked} tokens"


def check_forward(model: Any, ids: Any, rows: int) -> None:
    """A forward pass gives finite logits, one for each row of the embedding.

    A model without a head must give finite hidden states. `ids`: [batch, length].
    """
    import torch

    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    output = model(input_ids=ids, **decoder)
    if "logits" not in output:
        _fail_if("" if torch.isfinite(output[0]).all() else "states are not finite")
        return
    logits = output.logits
    if logits.shape[:2] != ids.shape or logits.shape[2] < rows:
        raise FailedCheckError(f"logits of shape {list(logits.shape)}, for {rows} tokens")
    _fail_if("" if torch.isfinite(logits).all() else "logits are not finite")


def check_generation(model: Any, ids: Any, rows: int, greedy: Any) -> str:
    """Greedy generation gives at least one token, and only tokens of the vocabulary."""
    output = model.generate(input_ids=ids, generation_config=greedy)[0]
    prompt = 1 if model.config.is_encoder_decoder else ids.shape[1]
    new = output[prompt:].tolist()
    if not new or not all(0 <= token < rows for token in new):
        raise FailedCheckError(f"generated {new}")
    return f"{len(new)} tokens"


def main() -> None:
    """Check the directories on the command line; JSON on stdout, all other output on stderr."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with contextlib.redirect_stdout(sys.stderr):
        results = [
            {"directory": name, "checks": check_directory(Path(name), why_untrusted)}
            for name, why_untrusted in json.loads(sys.argv[1])
        ]
    if "regrow" in sys.modules:
        raise SystemExit("loading these directories imported regrow")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
