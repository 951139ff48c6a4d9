"""A model with more tokens than it had, from one directory to another.

Tokens that mark the parts of an example (sentinels, prefixes, marks of a gap) are no text, so a
tokenizer that lacks them can be given them without changing how it reads anything. A new row of an
embedding is the mean of the others: so a new token begins as an average one, and takes no more
probability than that from the tokens that are there (Hewitt 2021, "Initializing new word
embeddings for pretrained language models").

Tokens that are merged from others stand for text, which was read as those. Their rows are the mean
of the rows of what they are merged from.
"""

import copy
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.architectures.cut_config import cut_config
from regrow.checkpoint.companions import companion_files, read_companions, write_files
from regrow.checkpoint.header import TensorInfo
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import read_tensor
from regrow.checkpoint.writer import small_files
from regrow.common.errors import UserError
from regrow.common.files import parse_json_object
from regrow.models.loading import load_tokenizer
from regrow.surgery.carve import CarvePlan, Output, Shard, carve
from regrow.surgery.computed import Computed, Floats
from regrow.surgery.cut import CUT_FILE
from regrow.surgery.prune import ORIGIN_FILE, VOCABULARY_FILE
from regrow.surgery.select import Selection
from regrow.tokenizers.config_ids import check_rows, remap_ids
from regrow.tokenizers.tokenizer_files import plan_grown_tokenizer, stale_files

_BLOCK_BYTES = 16 << 20
"""How much of a tensor is read at once for the mean of its rows."""
_GENERATION_FILE = "generation_config.json"
_OF_CUTS = (CUT_FILE, ORIGIN_FILE, VOCABULARY_FILE)
"""What a cut wrote speaks of the vocabulary that it left."""
_PROBE = "Ab 1234,56.7é\t日本語\n\n  x__Y'll 🙂 antidisestablishment def f(x):\r\n"


def extended(
    model: ModelDirectory, tokens: Sequence[str], cache: Path, notify: Callable[[str], None]
) -> ModelDirectory:
    """The model itself if its tokenizer has these tokens, or else what `extend` makes of it.

    Made once, under `cache`, and found again by the hash of the weights and the tokens.
    """
    vocabulary = model.tokenizer.get_vocab()
    missing = [token for token in tokens if token not in vocabulary]
    if not missing:
        return model
    fingerprint = model.checkpoint.fingerprint.removeprefix("sha256:")[:16]
    out = cache / "extended" / f"{model.path.name}-{fingerprint}-{len(missing)}"
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        notify(f"adding {len(missing)} tokens ({missing[0]} ... {missing[-1]}) in {out}")
        extend(model, out, missing)
    return ModelDirectory(out)


def extend(source: ModelDirectory, out: Path, tokens: Sequence[str]) -> None:
    """Write the model of `source` to `out` with further special tokens.

    Their ids follow those that the tokenizer has. Where the embedding already has rows there, as
    many models have for the sake of a round number, it does not grow. All rows of new tokens, in
    the embedding and in whatever else has one for each token, are the mean of the rows of the
    tokens so far. Written whole or not at all.

    Raises UserError where the tokenizer has one of the tokens, or takes none, and where the disk
    has no room.
    """
    layout = source.layout
    files, first = _with_tokens(source, tokens)
    if first > layout.sizes["vocab"]:
        raise UserError(
            f"{source.path}: the tokenizer has ids up to {first - 1}, the embedding "
            f"{layout.sizes['vocab']} rows"
        )
    rows = _Rows(first, first + len(tokens), layout.sizes["vocab"])
    _allow(files, range(first, first + len(tokens)))
    carve(_plan(source, rows, source.checkpoint.config, files), out)


def grow(source: ModelDirectory, out: Path, merges: Sequence[tuple[str, str]]) -> None:
    """Write the model of `source` to `out` with a token more for each merge of its BPE.

    The ids of new tokens follow those of the tokenizer's model; tokens that were added outside it,
    and rows without a token, move behind them. Rows of new tokens are the mean of the rows of the
    tokens that they are merged from; all others are as they were. Written whole or not at all.

    Raises UserError where the tokenizer cannot be given merges, and where the disk has no room.
    """
    directory = source.path
    files, mapping = plan_grown_tokenizer(directory, merges)
    check_rows(max(mapping) + 1, before := source.layout.sizes["vocab"])
    vocab = parse_json_object(files["tokenizer.json"], "tokenizer.json")["model"]["vocab"]
    first = len(vocab) - len(merges)
    shifted = {token: token + len(merges) * (token >= first) for token in range(before)}
    config = remap_ids(dict(source.checkpoint.config), shifted, "config.json")
    stale = {*_OF_CUTS, *stale_files(directory)}
    kept = {name: path for name, path in companion_files(directory).items() if name not in stale}
    files = {name: path.read_bytes() for name, path in kept.items()} | files
    if source.generation_config is not None:
        read = remap_ids(source.generation_config, shifted, _GENERATION_FILE)
        files[_GENERATION_FILE] = (json.dumps(read, indent=1) + "\n").encode()
    rows = _Rows(first, first + len(merges), before, _parts_of(merges, vocab, first))
    carve(_plan(source, rows, config, files), out)


def _parts_of(
    merges: Sequence[tuple[str, str]], vocab: Mapping[str, int], first: int
) -> list[tuple[int, ...]]:
    """The old tokens that each new one is merged from, in the end."""
    parts: dict[str, tuple[int, ...]] = {}
    for pair in merges:
        parts["".join(pair)] = sum((parts.get(part, (vocab[part],)) for part in pair), ())
    assert all(part < first for each in parts.values() for part in each)
    return list(parts.values())


@dataclass(frozen=True)
class _Rows:
    """Which rows are new: `first` to `last - 1`, beside `before` that there were.

    `parts`: the old rows that each new one is the mean of; all other rows are moved behind the new
    ones. None: each is the mean of all rows before them, and takes the place of a row without a
    token where there is one.
    """

    first: int
    last: int
    before: int
    parts: Sequence[Sequence[int]] | None = None

    @property
    def rest(self) -> int:
        """The old row that follows the new ones."""
        return min(self.last, self.before) if self.parts is None else self.first

    @property
    def count(self) -> int:
        """Of all rows, then."""
        return self.last + self.before - self.rest

    def grown(self, info: TensorInfo, axis: int) -> Computed:
        """A tensor with its rows along a dimension, and the new ones among them."""
        shape = (*info.shape[:axis], self.count, *info.shape[axis + 1 :])
        if axis:
            # A bias with its rows in the second dimension (BART's): small.
            return Computed(shape, lambda first, last: self._whole(info, axis)[first:last])
        mean = cache(lambda: _mean(info, self.first))

        def new(row: int) -> NDArray[np.float64]:
            if self.parts is None:
                return mean()
            parts = [read_tensor(info, part, 1)[0] for part in self.parts[row - self.first]]
            return np.asarray(np.mean(parts, axis=0, dtype=np.float64))

        def rows(first: int, last: int) -> Floats:
            begin, end = (min(max(edge, first), last) for edge in (self.first, self.last))
            pieces: list[Floats] = []
            if first < begin:
                pieces.append(read_tensor(info, first, begin - first))
            if begin < end:
                pieces.append(np.stack([new(row) for row in range(begin, end)]))
            if end < last:
                pieces.append(read_tensor(info, self.rest + end - self.last, last - end))
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        return Computed(shape, rows)

    def _whole(self, info: TensorInfo, axis: int) -> NDArray[np.float64]:
        values = np.moveaxis(read_tensor(info), axis, 0).astype(np.float64)
        if self.parts is None:
            mean = values[: self.first].mean(axis=0, keepdims=True)
            new = np.repeat(mean, self.last - self.first, axis=0)
        else:
            new = np.stack([values[list(parts)].mean(axis=0) for parts in self.parts])
        whole = np.concatenate([values[: self.first], new, values[self.rest :]])
        return np.moveaxis(whole, 0, axis)


def _with_tokens(source: ModelDirectory, tokens: Sequence[str]) -> tuple[dict[str, bytes], int]:
    """The small files of `source`, its tokenizer with the tokens; the first new id."""
    tokenizer = copy.deepcopy(source.tokenizer)
    before, read = tokenizer.get_vocab(), tokenizer(_PROBE)["input_ids"]
    if known := [token for token in tokens if token in before]:
        raise UserError(f"{source.path}: the tokenizer already has {', '.join(known)}")
    first = 1 + int(max(before.values()))
    kept = {
        name: data for name, data in read_companions(source.path).items() if name not in _OF_CUTS
    }
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False
    )
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_files(directory, kept)
        tokenizer.save_pretrained(directory)
        again = load_tokenizer(directory)
        wanted = before | {token: first + number for number, token in enumerate(tokens)}
        if again.get_vocab() != wanted or again(_PROBE)["input_ids"] != read:
            raise UserError(
                f"{source.path}: {type(tokenizer).__name__} cannot be given tokens without "
                f"changing others; give a model whose tokenizer has {tokens[0]}"
            )
        files = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }
    return files, first


def _allow(files: dict[str, bytes], tokens: range) -> None:
    """Ids that were padding, and have a token now, are no longer suppressed."""
    if _GENERATION_FILE not in files:
        return
    generation = parse_json_object(files[_GENERATION_FILE], _GENERATION_FILE)
    if suppressed := generation.get("suppress_tokens"):
        left = [token for token in suppressed if token not in tokens]
        generation["suppress_tokens"] = left or None
        files[_GENERATION_FILE] = (json.dumps(generation, indent=1) + "\n").encode()


def _plan(
    source: ModelDirectory, rows: _Rows, config: Mapping[str, Any], files: Mapping[str, bytes]
) -> CarvePlan:
    """`config`: of the model before, with the ids that it will have."""
    layout = source.layout
    layers = {
        axis.name: range(layout.sizes[axis.name])
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    }
    config = cut_config(layout, {"vocab": rows.count}, layers, config)
    by_file: dict[Path, list[Output]] = {}
    for name, info in source.checkpoint.tensors.items():
        if name not in layout.tensors:
            continue
        label = layout.tensors[name]
        axes = (a for a, d in enumerate(label.dims.dimensions) if "vocab" in d.names)
        axis = next(axes, None)
        whole = Selection(info, (None,) * len(info.shape))
        content = whole if axis is None else rows.grown(info, axis)
        by_file.setdefault(info.file, []).append(Output(name, label.parameter, info.dtype, content))
    shards = tuple(Shard(file.name, tuple(outputs)) for file, outputs in by_file.items())
    small = small_files(config, files, [shard.weights for shard in shards], indent=1)
    plan = CarvePlan(shards, config, small)
    check_on_meta(config, layout.blueprint, plan.shapes)
    return plan


def _mean(info: TensorInfo, count: int) -> NDArray[np.float64]:
    """Of the first rows."""
    total = np.zeros(info.shape[1:], dtype=np.float64)
    at_once = max(1, _BLOCK_BYTES // max(1, info.nbytes // max(1, info.shape[0])))
    for start in range(0, count, at_once):
        values = read_tensor(info, start, min(at_once, count - start))
        total += values.sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float64] = total / max(1, count)
    return mean
