"""A model with more tokens than it had, from one directory to another.

Tokens that mark the parts of an example (sentinels, prefixes, marks of a gap) are no text, so a
tokenizer that lacks them can be given them without changing how it reads anything. A new row of an
embedding is the mean of the others: so a new token begins as an average one, and takes no more
probability than that from the tokens that are there (Hewitt 2021, "Initializing new word
embeddings for pretrained language models").

Tokens that are merged from others stand for text, which was read as those. Their rows are the mean
of the rows of what they are merged from.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Layout
from regrow.architectures.cut_config import cut_config
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.companions import companion_files, write_files
from regrow.checkpoint.header import TensorInfo, header_bytes
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import (
    INDEX_FILE,
    Checkpoint,
    open_checkpoint,
    read_bytes,
    read_tensor,
)
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.common.files import parse_json_object, read_json_object, sync_directory
from regrow.models.loading import load_tokenizer
from regrow.models.networks import with_own_code
from regrow.surgery.cut import FILE_NAME
from regrow.surgery.prune import ORIGIN_FILE, VOCABULARY_FILE
from regrow.tokenizers.config_ids import check_rows, remap_ids
from regrow.tokenizers.tokenizer_files import plan_grown_tokenizer, stale_files

_BUFFER_BYTES = 16 << 20
_PROBE = "Ab 1234,56.7é\t日本語\n\n  x__Y'll 🙂 antidisestablishment def f(x):\r\n"


def extended(
    directory: Path, tokens: Sequence[str], cache: Path, notify: Callable[[str], None]
) -> Path:
    """`directory` where its tokenizer has these tokens, or else what `extend` makes of it.

    Made once, under `cache`, and found again by the hash of the weights and the tokens.
    """
    missing = [token for token in tokens if token not in load_tokenizer(directory).get_vocab()]
    if not missing:
        return directory
    fingerprint = open_checkpoint(directory).fingerprint.removeprefix("sha256:")[:16]
    out = cache / "extended" / f"{directory.name}-{fingerprint}-{len(missing)}"
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        notify(f"adding {len(missing)} tokens ({missing[0]} ... {missing[-1]}) in {out}")
        extend(directory, out, missing)
    return out


def extend(source: Path, out: Path, tokens: Sequence[str]) -> None:
    """Write the model of `source` to `out` with further special tokens.

    Their ids follow those that the tokenizer has. Where the embedding already has rows there, as
    many models have for the sake of a round number, it does not grow. All rows of new tokens, in
    the embedding and in whatever else has one for each token, are the mean of the rows of the
    tokens so far. Written whole or not at all.

    Raises UserError where the tokenizer has one of the tokens, or takes none, and where the disk
    has no room.
    """
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        temporary.chmod(0o755)
        first = _write_tokenizer(source, temporary, tokens)
        if first > layout.sizes["vocab"]:
            raise UserError(
                f"{source}: the tokenizer has ids up to {first - 1}, the embedding "
                f"{layout.sizes['vocab']} rows"
            )
        rows = _Rows(first, first + len(tokens), layout.sizes["vocab"])
        _allow(temporary / "generation_config.json", range(first, first + len(tokens)))
        _write_model(checkpoint, layout, rows, temporary, checkpoint.config)
        _publish(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def grow(source: Path, out: Path, merges: Sequence[tuple[str, str]]) -> None:
    """Write the model of `source` to `out` with a token more for each merge of its BPE.

    The ids of new tokens follow those of the tokenizer's model; tokens that were added outside it,
    and rows without a token, move behind them. Rows of new tokens are the mean of the rows of the
    tokens that they are merged from; all others are as they were. Written whole or not at all.

    Raises UserError where the tokenizer cannot be given merges, and where the disk has no room.
    """
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    files, mapping = plan_grown_tokenizer(source, merges)
    check_rows(max(mapping) + 1, before := layout.sizes["vocab"])
    vocab = parse_json_object(files["tokenizer.json"], "tokenizer.json")["model"]["vocab"]
    first = len(vocab) - len(merges)
    shifted = {token: token + len(merges) * (token >= first) for token in range(before)}
    config = remap_ids(dict(checkpoint.config), shifted, "config.json")
    generation = source / "generation_config.json"
    if generation.is_file():
        read = remap_ids(read_json_object(generation), shifted, generation.name)
        files[generation.name] = (json.dumps(read, indent=1) + "\n").encode()
    parts = _parts_of(merges, vocab, first)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        temporary.chmod(0o755)
        stale = {*_OF_CUTS, *stale_files(source)}
        kept = {name: p for name, p in companion_files(source).items() if name not in stale}
        write_files(temporary, {name: path.read_bytes() for name, path in kept.items()} | files)
        rows = _Rows(first, first + len(merges), before, parts)
        _write_model(checkpoint, layout, rows, temporary, config)
        _publish(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _parts_of(
    merges: Sequence[tuple[str, str]], vocab: Mapping[str, int], first: int
) -> list[tuple[int, ...]]:
    """The old tokens that each new one is merged from, in the end."""
    parts: dict[str, tuple[int, ...]] = {}
    for pair in merges:
        parts["".join(pair)] = sum((parts.get(part, (vocab[part],)) for part in pair), ())
    assert all(part < first for each in parts.values() for part in each)
    return list(parts.values())


def _publish(temporary: Path, out: Path) -> None:
    """Give a directory that is complete its name."""
    for path in (*temporary.iterdir(), temporary):
        sync_directory(path)
    temporary.rename(out)
    sync_directory(out.parent)


_OF_CUTS = (FILE_NAME, ORIGIN_FILE, VOCABULARY_FILE)
"""What a cut wrote speaks of the vocabulary that it left."""


class _Rows:
    """Which rows are new: `first` to `last - 1`, of `before` that there were.

    `parts`: the old rows that each new one is the mean of; all other rows are moved behind the new
    ones. None: each is the mean of all rows before them, and takes the place of a row without a
    token where there is one.
    """

    def __init__(
        self, first: int, last: int, before: int, parts: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.first, self.last, self.before, self.parts = first, last, before, parts
        self.rest = min(last, before) if parts is None else first
        """The old row that follows the new ones."""
        self.count = last + before - self.rest
        """Of all, then."""

    def values(self, info: TensorInfo) -> NDArray[Any]:
        """The new rows of a tensor that has its rows in the first dimension."""
        if self.parts is None:
            mean = _mean(info, self.first)
            return np.broadcast_to(mean, (self.last - self.first, *info.shape[1:]))
        return np.stack(
            [
                np.mean([read_tensor(info, part, 1)[0] for part in parts], axis=0, dtype=np.float64)
                for parts in self.parts
            ]
        )

    def shape(self, info: TensorInfo, axis: int | None) -> tuple[int, ...]:
        shape = list(info.shape)
        if axis is not None:
            shape[axis] = self.count
        return tuple(shape)


def _write_tokenizer(source: Path, out: Path, tokens: Sequence[str]) -> int:
    """Write the small files of `source`, its tokenizer with the tokens; the first new id."""
    tokenizer = load_tokenizer(source)
    before, read = tokenizer.get_vocab(), tokenizer(_PROBE)["input_ids"]
    if known := [token for token in tokens if token in before]:
        raise UserError(f"{source}: the tokenizer already has {', '.join(known)}")
    first = 1 + int(max(before.values()))
    kept = {name: p for name, p in companion_files(source).items() if name not in _OF_CUTS}
    write_files(out, {name: path.read_bytes() for name, path in kept.items()})
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False
    )
    tokenizer.save_pretrained(out)
    again = load_tokenizer(out)
    wanted = before | {token: first + number for number, token in enumerate(tokens)}
    if again.get_vocab() != wanted or again(_PROBE)["input_ids"] != read:
        raise UserError(
            f"{source}: {type(tokenizer).__name__} cannot be given tokens without changing "
            f"others; give a model whose tokenizer has {tokens[0]}"
        )
    return first


def _allow(path: Path, tokens: range) -> None:
    """Ids that were padding, and have a token now, are no longer suppressed."""
    generation = read_json_object(path) if path.is_file() else {}
    if suppressed := generation.get("suppress_tokens"):
        left = [token for token in suppressed if token not in tokens]
        generation["suppress_tokens"] = left or None
        path.write_text(json.dumps(generation, indent=1) + "\n", encoding="utf-8")


def _write_model(
    checkpoint: Checkpoint, layout: Layout, rows: _Rows, out: Path, config: Mapping[str, Any]
) -> None:
    """`config`: of the model before, with the ids that it will have."""
    axes = {
        name: next((a for a, d in enumerate(tensor.dims.dimensions) if "vocab" in d.names), None)
        for name, tensor in layout.tensors.items()
    }
    kept = [info for name, info in checkpoint.tensors.items() if name in axes]
    layers = {
        axis.name: range(layout.sizes[axis.name])
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    }
    config = cut_config(layout, {"vocab": rows.count}, layers, config)
    shapes = {
        layout.tensors[info.name].parameter: rows.shape(info, axes[info.name]) for info in kept
    }
    check_on_meta(config, layout.blueprint, shapes)
    check_free_space(out, sum(_nbytes(info, rows.shape(info, axes[info.name])) for info in kept))
    weight_map: dict[str, str] = {}
    for file in checkpoint.files:
        infos = [info for info in kept if info.file == file]
        entries = [(info.name, info.dtype, rows.shape(info, axes[info.name])) for info in infos]
        if not infos:
            continue
        with (out / file.name).open("wb") as written:
            written.write(header_bytes(entries))
            for info in infos:
                _write_tensor(info, axes[info.name], rows, written)
            written.flush()
            os.fsync(written.fileno())
        weight_map |= dict.fromkeys((info.name for info in infos), file.name)
    if (checkpoint.directory / INDEX_FILE).is_file() and len(checkpoint.files) > 1:
        size = sum(_nbytes(info, rows.shape(info, axes[info.name])) for info in kept)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (out / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
    files = {name: path.read_bytes() for name, path in companion_files(out).items()}
    config, files = with_own_code(config, files)
    write_files(out, files)
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")


def _nbytes(info: TensorInfo, shape: tuple[int, ...]) -> int:
    size = info.nbytes // max(1, int(np.prod(info.shape)))
    return size * int(np.prod(shape))


def _write_tensor(info: TensorInfo, axis: int | None, rows: _Rows, file: BinaryIO) -> None:
    if axis is None:
        for block in _blocks(info, 0, info.shape[0] if info.shape else 1):
            file.write(block)
    elif axis == 0:
        for block in _blocks(info, 0, rows.first):
            file.write(block)
        file.write(_encoded(rows.values(info), info.dtype))
        for block in _blocks(info, rows.rest, rows.before):
            file.write(block)
    else:
        # A bias with its rows in the second dimension (BART's): small.
        values = np.moveaxis(read_tensor(info), axis, 0).astype(np.float64)
        if rows.parts is None:
            mean = values[: rows.first].mean(axis=0, keepdims=True)
            new = np.repeat(mean, rows.last - rows.first, axis=0)
        else:
            new = np.stack([values[list(parts)].mean(axis=0) for parts in rows.parts])
        whole = np.concatenate([values[: rows.first], new, values[rows.rest :]])
        file.write(_encoded(np.moveaxis(whole, 0, axis), info.dtype))


def _blocks(info: TensorInfo, first: int, last: int) -> Iterator[bytearray]:
    """The bytes of rows `first` to `last - 1`, some rows at a time."""
    height = info.shape[0] if info.shape else 1
    at_once = max(1, _BUFFER_BYTES // max(1, info.nbytes // max(1, height)))
    for start in range(first, last, at_once):
        yield read_bytes(info, start, min(at_once, last - start))


def _mean(info: TensorInfo, count: int) -> NDArray[np.float64]:
    """Of the first rows."""
    total = np.zeros(info.shape[1:], dtype=np.float64)
    at_once = max(1, _BUFFER_BYTES // max(1, info.nbytes // max(1, info.shape[0])))
    for start in range(0, count, at_once):
        values = read_tensor(info, start, min(at_once, count - start))
        total += values.sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float64] = total / max(1, count)
    return mean


def _encoded(values: NDArray[Any], dtype: str) -> bytes:
    """As stored."""
    if dtype != "BF16":
        return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
    import torch

    rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().tobytes()
