"""Write a copy of a model with additional tokens.

`add_tokens` adds special tokens that mark the parts of an example (sentinels, prefixes, gap
markers). They never occur in text, so the tokenizer still encodes text as before. The new rows of
an embedding are the mean of the old rows. A new token then begins as an average token, and takes no
more probability than that from the old tokens (Hewitt 2021, "Initializing new word embeddings for
pretrained language models").

`add_merged_tokens` adds tokens for text that had several tokens before. The row of a new token is
the mean of the rows of the tokens that it is merged from.
"""

import copy
import hashlib
import json
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
from regrow.checkpoint.history import change, history_of
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.model_card import description
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.checkpoint.reader import read_tensor
from regrow.checkpoint.writer import small_files
from regrow.common.errors import UserError
from regrow.common.files import parse_json_object
from regrow.common.publishing import make_directory, workplace
from regrow.cuts.cut import CUT_FILE
from regrow.models.loading import library_errors, load_tokenizer
from regrow.surgery.carve import CarvePlan, Output, Shard, carve
from regrow.surgery.computed import Computed, Floats
from regrow.surgery.kept_bytes import FLOATS, Selection
from regrow.surgery.result_files import ORIGIN_FILE, VOCABULARY_FILE
from regrow.tokenizers.config_ids import check_rows, remap_ids
from regrow.tokenizers.tokenizer_files import plan_grown_tokenizer, stale_files

_BLOCK_BYTES = 16 << 20
"""Bytes of a tensor that are read at once to compute the mean of its rows."""
_GENERATION_FILE = "generation_config.json"
_CUT_FILES = (CUT_FILE, ORIGIN_FILE, VOCABULARY_FILE)
"""Files written by a cut. They describe the vocabulary before the growth, so they are dropped."""
_SAMPLE = "Ab 1234,56.7é\t日本語\n\n  x__Y'll 🙂 antidisestablishment def f(x):\r\n"


def ensure_tokens(
    model: ModelDirectory, tokens: Sequence[str], cache: Path, notify: Callable[[str], None]
) -> ModelDirectory:
    """The model itself if its tokenizer has these tokens, else a copy with the missing ones added.

    The copy is made once, under `cache`, and found again by a hash of the model's files and of the
    missing tokens. `notify` gets a line before it is made.
    """
    vocabulary = model.tokenizer.get_vocab()
    missing = [token for token in tokens if token not in vocabulary]
    if not missing:
        return model
    facts = json.dumps([model.checkpoint.fingerprint, model.files_sha256, missing])
    key = hashlib.sha256(facts.encode()).hexdigest()[:16]
    out = cache / "extended" / f"{model.path.name}-{key}"
    if not out.is_dir():
        make_directory(out.parent)
        notify(f"adding {len(missing)} tokens ({missing[0]} ... {missing[-1]}) in {out}")
        add_tokens(model, out, missing)
    return ModelDirectory(out)


def add_tokens(source: ModelDirectory, out: Path, tokens: Sequence[str]) -> None:
    """Write the model of `source` to `out` with additional special tokens.

    Their ids follow the highest id of the tokenizer. If the embedding is padded, the new tokens use
    the padding rows first, and the embedding grows only beyond them. In every tensor with a row for
    each token, the rows of new tokens are the mean of the rows of the old tokens. The directory is
    written whole or not at all.

    Raises UserError if the tokenizer already has one of the tokens or accepts no new ones, or if
    there is not enough disk space.
    """
    layout = source.layout
    with workplace(out) as place:
        files, first = _tokenizer_with(source, tokens, place / "tokenizer")
        if first > layout.sizes["vocab"]:
            raise UserError(
                f"{source.path}: the tokenizer has ids up to {first - 1}, the embedding "
                f"{layout.sizes['vocab']} rows"
            )
        rows = _NewRows(first, first + len(tokens), layout.sizes["vocab"])
        _unsuppress(files, range(first, first + len(tokens)))
        words = f"{len(tokens):,} special tokens added, {tokens[0]} to {tokens[-1]}"
        files |= _description(source, rows, words)
        carve(_plan(source, rows, source.checkpoint.config, files), out, place=place)


def add_merged_tokens(source: ModelDirectory, out: Path, merges: Sequence[tuple[str, str]]) -> None:
    """Write the model of `source` to `out` with one new token for each additional BPE merge.

    The ids of new tokens follow those of the BPE vocabulary. Added tokens outside of it, and
    padding rows, move behind the new ids. The row of a new token is the mean of the rows of the
    tokens that it is merged from; all other rows are unchanged. The directory is written whole or
    not at all.

    `merges`: pairs of tokens, in the order in which they are merged.

    Raises UserError if the tokenizer accepts no merges, or if there is not enough disk space.
    """
    directory = source.path
    files, mapping = plan_grown_tokenizer(directory, merges)
    old_rows = source.layout.sizes["vocab"]
    check_rows(max(mapping) + 1, old_rows)
    vocab = parse_json_object(files["tokenizer.json"], "tokenizer.json")["model"]["vocab"]
    first = len(vocab) - len(merges)
    shifted = {token: token + len(merges) * (token >= first) for token in range(old_rows)}
    config = remap_ids(dict(source.checkpoint.config), shifted, "config.json")
    stale = {*_CUT_FILES, *stale_files(directory)}
    kept = {name: path for name, path in companion_files(directory).items() if name not in stale}
    files = {name: path.read_bytes() for name, path in kept.items()} | files
    if source.generation_config is not None:
        generation = remap_ids(source.generation_config, shifted, _GENERATION_FILE)
        files[_GENERATION_FILE] = (json.dumps(generation, indent=1) + "\n").encode()
    rows = _NewRows(first, first + len(merges), old_rows, _parts_of(merges, vocab, first))
    files |= _description(source, rows, f"{len(merges):,} tokens added for frequent words")
    carve(_plan(source, rows, config, files), out)


def _parts_of(
    merges: Sequence[tuple[str, str]], vocab: Mapping[str, int], first: int
) -> list[tuple[int, ...]]:
    """The ids of the old tokens that each new token is made of."""
    parts: dict[str, tuple[int, ...]] = {}
    for pair in merges:
        parts["".join(pair)] = sum((parts.get(part, (vocab[part],)) for part in pair), ())
    assert all(part < first for each in parts.values() for part in each)
    return list(parts.values())


@dataclass(frozen=True)
class _NewRows:
    """The rows that are added to every tensor with a row for each token.

    Attributes:
        first, last: the new rows are `first` to `last - 1`.
        old_count: number of rows before.
        parts: for each new row, the old rows of which it is the mean; the old rows from `first` on
            move behind the new ones. If None, each new row is the mean of all old rows before
            `first`, and the new rows replace old ones (padding) as far as there are any.
    """

    first: int
    last: int
    old_count: int
    parts: Sequence[Sequence[int]] | None = None

    @property
    def next_old(self) -> int:
        """The old row that follows the last new row."""
        return min(self.last, self.old_count) if self.parts is None else self.first

    @property
    def count(self) -> int:
        """The number of rows after the growth."""
        return self.last + self.old_count - self.next_old

    def grown(self, info: TensorInfo, axis: int) -> Computed:
        """A stored tensor with the new rows inserted; its rows lie along dimension `axis`."""
        if info.dtype not in FLOATS:
            raise UserError(
                f"{info.file}: {info.name} is {info.dtype}; new rows are means of others, for "
                f"which one of {', '.join(sorted(FLOATS))} is wanted"
            )
        shape = (*info.shape[:axis], self.count, *info.shape[axis + 1 :])
        if axis:
            # A bias with its rows in the second dimension (BART's) is small: compute it whole.
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
                pieces.append(read_tensor(info, self.next_old + end - self.last, last - end))
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        return Computed(shape, rows)

    def _whole(self, info: TensorInfo, axis: int) -> NDArray[np.float64]:
        values = np.moveaxis(read_tensor(info), axis, 0).astype(np.float64)
        if self.parts is None:
            mean = values[: self.first].mean(axis=0, keepdims=True)
            new = np.repeat(mean, self.last - self.first, axis=0)
        else:
            new = np.stack([values[list(parts)].mean(axis=0) for parts in self.parts])
        whole = np.concatenate([values[: self.first], new, values[self.next_old :]])
        return np.moveaxis(whole, 0, axis)


def _tokenizer_with(
    source: ModelDirectory, tokens: Sequence[str], directory: Path
) -> tuple[dict[str, bytes], int]:
    """The small files of `source`, with the tokens added to its tokenizer; the first new id.

    `directory`: a new one for the files, in the workplace of the result, so that none of a killed
    process stays elsewhere.

    Raises UserError if the tokenizer, saved and loaded again, does not have exactly these tokens
    more, or encodes a sample text differently.
    """
    tokenizer = copy.deepcopy(source.tokenizer)
    vocabulary, sample_ids = tokenizer.get_vocab(), tokenizer(_SAMPLE)["input_ids"]
    if known := [token for token in tokens if token in vocabulary]:
        raise UserError(f"{source.path}: the tokenizer already has {', '.join(known)}")
    first = 1 + int(max(vocabulary.values()))
    kept = {
        name: data for name, data in read_companions(source.path).items() if name not in _CUT_FILES
    }
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(tokens)}, replace_extra_special_tokens=False
    )
    directory.mkdir()
    write_files(directory, kept)
    with library_errors(f"{directory}: the tokenizer cannot be written"):
        tokenizer.save_pretrained(directory)
    reloaded = load_tokenizer(directory)
    expected = vocabulary | {token: first + number for number, token in enumerate(tokens)}
    if reloaded.get_vocab() != expected or reloaded(_SAMPLE)["input_ids"] != sample_ids:
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


def _unsuppress(files: dict[str, bytes], tokens: range) -> None:
    """Remove ids that were padding and are tokens now from `suppress_tokens`."""
    if _GENERATION_FILE not in files:
        return
    generation = parse_json_object(files[_GENERATION_FILE], _GENERATION_FILE)
    if suppressed := generation.get("suppress_tokens"):
        still_suppressed = [token for token in suppressed if token not in tokens]
        generation["suppress_tokens"] = still_suppressed or None
        files[_GENERATION_FILE] = (json.dumps(generation, indent=1) + "\n").encode()


def _description(source: ModelDirectory, rows: _NewRows, words: str) -> dict[str, bytes]:
    """The files that describe the result."""
    layout = source.layout
    step = change("tokens", words, {}, layout, {"vocab": rows.count})
    return description(history_of(source.path, layout).then(step), source.checkpoint.config)


def _plan(
    source: ModelDirectory, rows: _NewRows, config: Mapping[str, Any], files: Mapping[str, bytes]
) -> CarvePlan:
    """Plan the model with the new rows; `config`: of `source`, but with the new token ids."""
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
        dimensions = enumerate(label.dims.dimensions)
        axis = next((n for n, dimension in dimensions if "vocab" in dimension.names), None)
        whole = Selection(info, (None,) * len(info.shape))
        content = whole if axis is None else rows.grown(info, axis)
        output = Output(layout.written_name(label), label.parameter, info.dtype, content)
        by_file.setdefault(info.file, []).append(output)
    shards = tuple(Shard(file.name, tuple(outputs)) for file, outputs in by_file.items())
    small = small_files(config, files, [shard.weights for shard in shards], indent=1)
    plan = CarvePlan(shards, config, small)
    check_on_meta(config, layout.blueprint, plan.shapes)
    return plan


def _mean(info: TensorInfo, count: int) -> NDArray[np.float64]:
    """The mean of the first `count` rows, in float64, [*shape[1:]]."""
    total = np.zeros(info.shape[1:], dtype=np.float64)
    block_rows = max(1, _BLOCK_BYTES // max(1, info.nbytes // max(1, info.shape[0])))
    for start in range(0, count, block_rows):
        values = read_tensor(info, start, min(block_rows, count - start))
        total += values.sum(axis=0, dtype=np.float64)
    mean: NDArray[np.float64] = total / max(1, count)
    return mean
