"""The cuts of OpenBA-V2 at full size: 15B to 3.4B, stage by stage and all at once.

The script writes a checkpoint with OpenBA's shapes in bf16 (31 GB), with finite weights that are
not zero. `regrow prune` first cuts it in one pass, with all cuts composed. Then it cuts it in the
stages of the OpenBA-V2 report (arXiv 2405.05957, table 3): the layers that the report names;
hidden, ffn and heads at random; and the vocabulary (rows at random, since there is no tokenizer to
count with). The single pass and the stages must end in the same files. After each cut the class is
built on the meta device, in a separate process, and must have exactly the shapes that were written.

The inputs are larger than the page cache. So every timed command begins with none of its input in
memory, and with nothing left to write to disk. Before each cut, `cp` copies as many bytes as the
cut reads, without reflinks or holes; then the copy is removed. A row counts as read if any of its
columns is kept. Neither `cp` nor carving waits until the data is on the disk. Each is timed once.

Memory is the peak of the resident set of the process that carves. The short-lived process that
checks the result is listed separately. "Bytes off the plan" compares all files with what the
command announced, and the weights with the sizes in this script.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from common import Goal, Result, parser, say, show
from numpy.typing import NDArray
from surgery import REGROW, bytes_read_and_kept, hold_bytes

from regrow.architectures import Layout
from regrow.architectures.openba import OPENBA, ffn_value
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.meta_check import check_on_meta
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.common.errors import UserError
from regrow.cuts.choose_indices import choose
from regrow.cuts.cut import AxisCut, Cut
from regrow.scoring.random_scores import random_scores
from regrow.surgery.size_options import sizes_from_options

SHARD_BYTES = 21 * 10**8  # large enough for the embedding
SPARE_BYTES = 10**9
PEAK_MB = 300
TIMED_BYTES = 10**9  # smaller cuts have no goal for their time, which is mostly noise
SEED = 0
FIRST_TOKENS = 3
PERIOD = 4_194_301
"""Random weights repeat after so many, at another scale. A prime, so that all rows differ."""
SCALES = 8


@dataclass(frozen=True)
class Sizes:
    """An OpenBA model. `encoder`, `decoder`: layers; `ffn`: the effective size."""

    encoder: int
    decoder: int
    hidden: int
    ffn: int
    heads: int
    vocab: int
    head_dim: int = 128

    @property
    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the published order."""
        yield "shared_embedding.weight", (self.vocab, self.hidden)
        for stack, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for layer in range(layers):
                yield from self._block(f"{stack}.block.{layer}", stack == "decoder")
            yield from self._norm(f"{stack}.final_layernorm")
        yield from _linear("lm_head", self.vocab, self.hidden)

    def _block(self, at: str, decoder: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide = self.heads * self.head_dim
        yield from self._norm(f"{at}.input_layernorm")
        yield from _linear(f"{at}.self_attn.qkv", 3 * wide, self.hidden)
        yield from _linear(f"{at}.self_attn.o", self.hidden, wide)
        yield from self._norm(f"{at}.post_attn_layernorm")
        if decoder:
            yield from _linear(f"{at}.inter_attn.q", wide, self.hidden)
            yield from _linear(f"{at}.inter_attn.kv", 2 * wide, self.hidden)
            yield from _linear(f"{at}.inter_attn.o", self.hidden, wide)
            yield from self._norm(f"{at}.post_inter_attn_layernorm")
        yield f"{at}.mlp.fc_in.weight", (2 * self.ffn, self.hidden)
        yield f"{at}.mlp.fc_out.weight", (self.hidden, self.ffn)

    def _norm(self, at: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{at}.weight", (self.hidden,)
        yield f"{at}.bias", (self.hidden,)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(2 * prod(shape) for _, shape in self.tensors)

    @property
    def parameters(self) -> int:
        """The number of parameters without the head, as the report counts."""
        return sum(prod(shape) for name, shape in self.tensors if not name.startswith("lm_head"))

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["OpenBAForConditionalGeneration"], "model_type": "openba",
            "vocab_size": self.vocab, "hidden_size": self.hidden, "kv_channels": self.head_dim,
            "ffn_hidden_size": ffn_value(self.ffn), "num_layers": self.encoder,
            "num_decoder_layers": self.decoder, "num_heads": self.heads, "add_qkv_bias": True,
            "add_ffn_bias": False, "add_lm_head_bias": True, "attention_dropout": 0.0,
            "hidden_dropout": 0.0, "max_seq_length": 1024, "decoder_max_seq_length": 1024,
            "initializer_factor": 1.0, "is_encoder_decoder": True, "use_cache": True,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "pad_token_id": 0,
            "eos_token_id": 1, "decoder_start_token_id": 0,
        }  # fmt: skip

    def __str__(self) -> str:
        count = self.parameters
        return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"


def _linear(at: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{at}.weight", (rows, columns)
    yield f"{at}.bias", (rows,)


@dataclass(frozen=True)
class Family:
    """The original, and the widths and vocabulary of the result."""

    original: Sizes
    hidden: int
    ffn: int
    heads: int
    vocab: int


FULL = Family(
    Sizes(encoder=12, decoder=36, hidden=4096, ffn=11_008, heads=40, vocab=250_880),
    hidden=2560, ffn=6912, heads=20, vocab=100_000,
)  # fmt: skip
SMALL = Family(
    Sizes(encoder=12, decoder=36, hidden=512, ffn=1536, heads=10, vocab=32_000),
    hidden=320, ffn=1024, heads=5, vocab=12_000,
)  # fmt: skip

DROPPED: tuple[Mapping[str, Sequence[int]], ...] = (
    {"encoder": (4, 8), "decoder": (7, 11, 18, 20, 22, 30)},
    {"encoder": (6, 10), "decoder": (4, 16, 27)},
    {"decoder": (10, 24, 33)},
)
"""The layers that stages 1 to 3 drop, numbered as in the original (report, section 3)."""


@dataclass(frozen=True)
class Stage:
    """One cut. `options`: of `regrow prune`; empty for the vocabulary."""

    name: str
    sizes: Sizes
    options: Mapping[str, Any]
    carve_goal: float

    @property
    def arguments(self) -> list[str]:
        """`options` as a command line."""
        words = []
        for option, value in self.options.items():
            values = (
                [f"{stack}={v}" for stack, v in value.items()]
                if isinstance(value, Mapping)
                else [str(value)]
            )
            for text in values:
                words += ["--" + option.replace("_", "-"), text]
        return words


def stages_of(family: Family) -> list[Stage]:
    """The stages of the report, with layers numbered as in the model that a stage begins with."""
    sizes, stages = family.original, []
    gone: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for number, dropped in enumerate(DROPPED, start=1):
        now = {stack: renumbered(layers, gone[stack]) for stack, layers in dropped.items()}
        for stack, layers in dropped.items():
            gone[stack] += layers
        sizes = replace(
            sizes,
            encoder=family.original.encoder - len(gone["encoder"]),
            decoder=family.original.decoder - len(gone["decoder"]),
        )
        listed = {stack: ",".join(map(str, layers)) for stack, layers in now.items()}
        stages.append(Stage(f"stage {number}, layers", sizes, {"drop_layers": listed}, 1.2))
    widths = {"hidden": family.hidden, "ffn": family.ffn, "heads": family.heads}
    sizes = replace(sizes, **widths)
    stages.append(Stage("stage 4, widths", sizes, {**widths, "by": "random", "seed": SEED}, 2))
    stages.append(Stage("vocabulary", replace(sizes, vocab=family.vocab), {}, 2))
    return stages


def renumbered(layers: Sequence[int], gone: Sequence[int]) -> list[int]:
    """The numbers of `layers` after the layers `gone` were dropped."""
    return [layer - sum(other < layer for other in gone) for layer in layers]


def random_scores_of(layout: Layout, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """The random scores of axes, as `regrow prune` draws them.

    The score of a key-value head is the mean of its query heads' scores.
    """
    axes = {axis.name: axis for axis in layout.blueprint.axes}
    heads = {axis.groups: axis for axis in axes.values() if axis.groups}
    found = {}
    for name in names:
        scores = random_scores(layout, heads.get(name, axes[name]), SEED)
        if name in heads:
            scores = scores.reshape(*scores.shape[:-1], layout.sizes[name], -1).mean(axis=-1)
        found[name] = scores
    return found


def choose_cuts(stages: Sequence[Stage], checkpoint: Checkpoint, layout: Layout) -> list[Cut]:
    """The cut that `regrow prune` will choose at each stage."""
    cuts = []
    for stage in stages:
        options = {k: v for k, v in stage.options.items() if k not in ("by", "seed")}
        if options:
            sizes, given = sizes_from_options(layout, options)
            drawn = [name for name in sizes if name not in given]
            scores = random_scores_of(layout, drawn)
            cut = choose(layout, checkpoint.fingerprint, sizes, scores, given)
        else:
            kept = random_rows(layout.sizes["vocab"], stage.sizes.vocab)
            axes = {"vocab": AxisCut(layout.sizes["vocab"], kept)}
            cut = Cut(checkpoint.fingerprint, axes)
        cuts.append(cut)
        layout = layout.resized(cut.sizes)
    return cuts


def random_rows(size: int, kept: int) -> NDArray[np.int64]:
    """Rows of the embedding to keep, at random, but always the special tokens at its start."""
    others = np.random.default_rng(SEED).permutation(size - FIRST_TOKENS) + FIRST_TOKENS
    return np.concatenate((np.arange(FIRST_TOKENS), np.sort(others[: kept - FIRST_TOKENS])))


def write_model(model: Sizes, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a bf16 checkpoint in shards. Magnitudes of weights lie between 2^-21 and 2^-5."""
    bits = np.random.default_rng(SEED).integers(0, 2**16, PERIOD, np.uint16)
    words = bits & np.uint16(0x80FF) | np.uint16(0x3C00)
    scaled = [memoryview((words - np.uint16(k << 8)).tobytes()) for k in range(SCALES)]
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in model.tensors:
        size = 2 * prod(shape)
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    directory.mkdir()
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    stopped = threading.Event()

    def write(name: str, shard: Mapping[str, tuple[int, ...]], start: int) -> None:
        header, end = {}, 0
        for tensor, shape in shard.items():
            begin, end = end, end + 2 * prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (directory / name).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            at, stop = start, start + end
            while at < stop and not stopped.is_set():
                cycle, offset = divmod(at, 2 * PERIOD)
                block = scaled[cycle % SCALES][offset : offset + stop - at]
                out.write(block)
                at += len(block)
            out.flush()
            os.fsync(out.fileno())

    starts = np.cumsum([0, *(sum(2 * prod(s) for s in shard.values()) for shard in shards)])
    with ThreadPoolExecutor(2) as pool:
        try:
            list(pool.map(write, names, shards, starts[:-1].tolist()))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    weight_map = {
        tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
    }
    index = {"metadata": {"total_size": model.nbytes}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(model.config, indent=2))


def cool(directory: Path) -> None:
    """Sync the files to disk and drop them from the page cache."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def seconds_of(command: Sequence[str | Path]) -> tuple[float, str]:
    """The wall time of a command, and its output."""
    os.sync()
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{command[0]} failed ({done.returncode})")
    return seconds, done.stdout


@dataclass(frozen=True)
class Timing:
    """Wall times in seconds."""

    cp: float
    whole: float


def cut_once(
    name: str, work: Path, source: Path, out: Path, stage: Stage, cut: Cut, options: Sequence[str]
) -> tuple[Timing, list[Result]]:
    """Time `cp` of the bytes that are read, then `regrow prune`. The result stays in `out`."""
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    read, kept = bytes_read_and_kept(checkpoint, layout, cut)
    say(f"{name}: {read / 1e9:.2f} GB read, {kept / 1e9:.2f} GB kept")

    reference, copied = work / "reference", work / "copied"
    hold_bytes(checkpoint.files, read, reference)
    copied.mkdir()
    cool(reference)
    files = sorted(reference.iterdir())
    cp, _ = seconds_of(["cp", "--reflink=never", "--sparse=never", *files, copied])
    shutil.rmtree(copied)
    shutil.rmtree(reference)

    peaks_file = work / "peaks"
    cool(source)
    whole, printed = seconds_of(
        [sys.executable, "-c", REGROW, peaks_file, "prune", source, out, "--json", *options]
    )
    done = json.loads(printed)
    own, child = (1024 * int(kib) / 1e6 for kib in peaks_file.read_text().split())
    say(f"  cp {cp:.1f} s, carve {done['seconds']:.1f} s, command {whole:.1f} s, {own:.0f} MB")

    result = open_checkpoint(out)
    written = sum(path.stat().st_size for path in out.iterdir())
    weights = sum(info.nbytes for info in result.tensors.values())
    off = abs(written - done["nbytes"]) + abs(weights - stage.sizes.nbytes)
    shapes = {tensor: info.shape for tensor, info in result.tensors.items()}
    check_on_meta(result.config, OPENBA, shapes)

    peer = "cp of the bytes read"
    goal = Goal("ratio", "<=", stage.carve_goal) if read > TIMED_BYTES else None
    return Timing(cp, whole), [
        Result(f"{name}: carving", done["seconds"], "s", peer, cp, goal),
        Result(f"{name}: whole command", whole, "s", peer, cp),
        Result(f"{name}: peak memory", own, "MB", goal=Goal("value", "<=", PEAK_MB)),
        Result(f"{name}: peak memory of the check", child, "MB"),
        Result(f"{name}: weights", weights / 1e9, "GB"),
        Result(f"{name}: bytes off the plan", off, "bytes", goal=Goal("value", "<=", 0)),
    ]


def measure(family: Family, work: Path) -> list[Result]:
    """All numbers of one model."""
    original, stages = family.original, stages_of(family)
    source, out, cut_file = work / "model", work / "out", work / "cut.json"
    say(f"{original}: writing {original.nbytes / 1e9:.1f} GB")
    began = time.perf_counter()
    write_model(original, source)
    say(f"  {time.perf_counter() - began:.1f} s")
    checkpoint = open_checkpoint(source)
    cuts = choose_cuts(stages, checkpoint, bind_checkpoint(checkpoint))

    at_once = reduce(Cut.then, cuts)
    at_once.save(cut_file)
    name = f"{original} -> {stages[-1].sizes}, all at once"
    last = replace(stages[-1], carve_goal=2)
    _, results = cut_once(name, work, source, out, last, at_once, ["--cut", str(cut_file)])
    wanted = digests(out)
    shutil.rmtree(out)

    timings, before = [], original
    for number, (stage, cut) in enumerate(zip(stages, cuts, strict=True), start=1):
        out = work / f"stage-{number}"
        options = stage.arguments
        if not options:
            Cut(open_checkpoint(source).fingerprint, cut.axes).save(cut_file)
            options = ["--cut", str(cut_file)]
        name = f"{before} -> {stage.sizes}, {stage.name}"
        timing, rows = cut_once(name, work, source, out, stage, cut, options)
        timings.append(timing)
        results += rows
        shutil.rmtree(source)
        source, before = out, stage.sizes
    found = digests(source)
    differing = sum(wanted.get(n) != found.get(n) for n in wanted.keys() | found.keys())
    shutil.rmtree(source)
    return [
        *results,
        Result(
            f"{original} -> {before}, all stages: whole commands", sum(t.whole for t in timings),
            "s", "cp of the bytes read", sum(t.cp for t in timings),
            Goal("ratio", "<=", 2) if family is FULL else None,  # else mostly imports
        ),
        Result(
            "stage by stage and all at once: weight files that differ", differing, "files",
            goal=Goal("value", "<=", 0),
        ),
    ]  # fmt: skip


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of the weight files by name."""
    found = {}
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def bytes_needed(family: Family) -> int:
    """The disk space needed at most: the original, stage 1, and a part of one shard."""
    beside = stages_of(family)[0].sizes.nbytes
    return family.original.nbytes + min(SHARD_BYTES, beside) + beside + SPARE_BYTES


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument(
        "--work", type=Path, required=True, help="a directory on the disk that is measured"
    )
    options: argparse.Namespace = made.parse_args(arguments)
    family = SMALL if options.quick else FULL
    options.work.mkdir(parents=True, exist_ok=True)
    needed, free = bytes_needed(family), shutil.disk_usage(options.work).free
    if free < needed:
        raise SystemExit(
            f"{options.work}: {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} are free"
        )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit("stopped")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="openba15b-", dir=options.work) as name:
        try:
            results = measure(family, Path(name).resolve())
        except UserError as error:
            raise SystemExit(str(error)) from error
    show(results, as_json=options.json)


if __name__ == "__main__":
    main()
