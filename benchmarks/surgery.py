"""Carving against `cp`: time and peak memory of `regrow prune` on a Llama checkpoint.

The weights are random and not zero, so no file is sparse. Before each timed command its input is
read into the page cache. Its output directory is empty before, and is removed after. regrow
and `cp` take turns. Values are medians, and a ratio is that of two medians. `cp` copies files of
exactly as many bytes, without reflinks or holes. It does not wait for the disk, so regrow is
compared with it under `--no-sync`; what waiting costs is listed separately.

Memory is the peak of the resident set of the process that carves. The short-lived process that
builds the class on the meta device, to check the result, is listed separately.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from common import Goal, Result, parser, say, show
from numpy.typing import NDArray

from regrow.architectures import Layout
from regrow.checkpoint.bind import bind_checkpoint
from regrow.checkpoint.header import TensorInfo
from regrow.checkpoint.reader import Checkpoint, open_checkpoint
from regrow.cuts.choose_indices import choose
from regrow.cuts.cut import Cut
from regrow.surgery.carve import plan_carve
from regrow.surgery.kept_bytes import Selection

SHARD_BYTES = 10**9
BLOCK_BYTES = 8 << 20
SPARE_BYTES = 2 * 10**9
DROPPED = "20-23"
FIRST_TOKENS = 3

# Runs the `regrow` command, and writes its two peaks of memory in KiB to a file.
REGROW = """
import atexit, resource, sys
def peaks():
    with open("/proc/self/status") as status:
        own = next(line.split()[1] for line in status if line.startswith("VmHWM:"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with open(target, "w") as file:
        file.write(f"{own} {children}")
target = sys.argv.pop(1)
atexit.register(peaks)
from regrow.cli.app import main
main()
"""


@dataclass(frozen=True)
class Model:
    """Sizes of a Llama. `cut`: its sizes after a cut of every axis."""

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int
    cut: dict[str, int]
    layers: int = 28
    head_dim: int = 128

    @property
    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the tensors. The head is tied."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield f"{at}.input_layernorm.weight", (self.hidden,)
            yield f"{at}.mlp.down_proj.weight", (self.hidden, self.ffn)
            yield f"{at}.mlp.gate_proj.weight", (self.ffn, self.hidden)
            yield f"{at}.mlp.up_proj.weight", (self.ffn, self.hidden)
            yield f"{at}.post_attention_layernorm.weight", (self.hidden,)
            yield f"{at}.self_attn.k_proj.weight", (narrow, self.hidden)
            yield f"{at}.self_attn.o_proj.weight", (self.hidden, wide)
            yield f"{at}.self_attn.q_proj.weight", (wide, self.hidden)
            yield f"{at}.self_attn.v_proj.weight", (narrow, self.hidden)
        yield "model.norm.weight", (self.hidden,)

    @property
    def nbytes(self) -> int:
        return sum(2 * int(np.prod(shape)) for _, shape in self.tensors)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
            "vocab_size": self.vocab, "hidden_size": self.hidden, "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip


LARGE = Model(
    3072, 8192, 24, 8, 128_256,
    {"layer": 24, "hidden": 2304, "ffn": 6144, "head": 18, "kv_head": 6, "vocab": 96_000},
)  # fmt: skip
SMALL = Model(
    1536, 4096, 12, 4, 32_000,
    {"layer": 24, "hidden": 1152, "ffn": 3072, "head": 9, "kv_head": 3, "vocab": 24_000},
)  # fmt: skip


def write_model(model: Model, directory: Path, seed: int = 0) -> None:
    """Write a bf16 checkpoint in shards. Magnitudes of weights lie between 2^-7 and 2^-5."""
    generator = np.random.Generator(np.random.SFC64(seed))
    shards: list[list[tuple[str, tuple[int, ...], int]]] = [[]]
    filled = 0
    for name, shape in model.tensors:
        size = 2 * int(np.prod(shape))
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape, size))
        filled += size
    directory.mkdir()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {name: file for name, _, _ in shard}
        header: dict[str, Any] = {}
        end = 0
        for name, shape, size in shard:
            offsets = [end, end + size]
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
            end += size
        text = json.dumps(header).encode()
        with (directory / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            while end:
                size = min(end, BLOCK_BYTES)
                words = generator.integers(0, 2**64, -(-size // 8), np.uint64)
                bits = words.view(np.uint16) & np.uint16(0x80FF) | np.uint16(0x3C00)
                out.write(bits.tobytes()[:size])
                end -= size
            out.flush()
            os.fsync(out.fileno())  # so that no write-back runs while a copy is timed
    index = {"metadata": {"total_size": model.nbytes}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(model.config))


def cut_all_axes(checkpoint: Checkpoint, layout: Layout, sizes: dict[str, int], seed: int) -> Cut:
    """A cut that keeps random indices of every axis. Few are neighbours: the hardest case."""
    generator = np.random.default_rng(seed)
    layers = layout.sizes["layer"]
    scores: dict[str, NDArray[np.float64]] = {}
    for name in sizes:
        size = layout.sizes[name]
        scores[name] = generator.random((layers, size) if name in ("ffn", "head") else size)
    scores["vocab"][:FIRST_TOKENS] = 1  # the special tokens stay
    return choose(layout, checkpoint.fingerprint, sizes, scores)


def bytes_read_and_kept(checkpoint: Checkpoint, layout: Layout, cut: Cut) -> tuple[int, int]:
    """Bytes of weights that are read and kept. A row is read whole if any column is kept."""
    plan = plan_carve(checkpoint, layout, cut, checkpoint.config, {}, SHARD_BYTES)
    read = 0
    for output in plan.outputs:
        assert isinstance(output.content, Selection)
        info: TensorInfo = output.content.info
        read += output.content.shape[0] * (info.nbytes // info.shape[0])
    return read, plan.weight_bytes


def hold_bytes(files: Sequence[Path], nbytes: int, directory: Path) -> None:
    """Fill `directory` with hard links to files, and a part of one file, `nbytes` in all.

    With links, both commands read the same pages of the page cache.
    """
    directory.mkdir()
    for file in files:
        size = min(nbytes, file.stat().st_size)
        nbytes -= size
        if size == file.stat().st_size:
            os.link(file, directory / file.name)
            continue
        with file.open("rb") as source, (directory / file.name).open("wb") as out:
            while size:
                block = source.read(min(size, BLOCK_BYTES))
                out.write(block)
                size -= len(block)
            out.flush()
            os.fsync(out.fileno())
        break
    assert nbytes == 0


def warm(directory: Path) -> None:
    """Read all files into the page cache."""
    buffer = bytearray(BLOCK_BYTES)
    for path in sorted(directory.iterdir()):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def seconds_of(command: Sequence[str | Path], source: Path, out: Path) -> tuple[float, str]:
    """The wall time of a command, and its output. Removes its output directory."""
    warm(source)
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr}")
    shutil.rmtree(out)
    return seconds, done.stdout


@dataclass(frozen=True)
class Timing:
    """Medians of times in seconds, and peaks of memory in bytes.

    `carve` and `whole` do not wait for the disk, as `cp` does not; `synced` is `carve` that does.
    """

    carve: float
    synced: float
    whole: float
    cp: float
    peak: int
    check_peak: int


def compare(
    work: Path, source: Path, reference: Path, options: Sequence[str | Path], repeats: int
) -> Timing:
    """Time `regrow prune`, without and with a sync, and `cp` of the reference, in turns."""
    out, peaks_file = work / "out", work / "peaks"
    prune: list[str | Path] = [
        sys.executable, "-c", REGROW, peaks_file, "prune", source, out, "--json", *options,
    ]  # fmt: skip
    carves, wholes, synced, copies, peaks = [], [], [], [], []
    for _ in range(repeats):
        synced.append(json.loads(seconds_of(prune, source, out)[1])["seconds"])
        whole, printed = seconds_of([*prune, "--no-sync"], source, out)
        carves.append(json.loads(printed)["seconds"])
        wholes.append(whole)
        peaks.append([1024 * int(kib) for kib in peaks_file.read_text().split()])
        out.mkdir()
        files = sorted(reference.iterdir())
        copy: list[str | Path] = ["cp", "--reflink=never", "--sparse=never", *files, out]
        copies.append(seconds_of(copy, reference, out)[0])
        say(
            f"  carve {carves[-1]:.2f} s, with sync {synced[-1]:.2f} s, command {whole:.2f} s, "
            f"cp {copies[-1]:.2f} s"
        )
    own, child = (max(column) for column in zip(*peaks, strict=True))
    median = statistics.median
    return Timing(
        median(carves), median(synced), median(wholes), median(copies), own, child
    )  # fmt: skip


def measure(model: Model, work: Path, repeats: int, mergekit: Path | None) -> list[Result]:
    """All numbers of one model."""
    source, reference = work / "model", work / "reference"
    size = f"{model.nbytes / 1e9:.1f} GB"
    say(f"{size}: writing the checkpoint")
    write_model(model, source)
    checkpoint = open_checkpoint(source)
    layout = bind_checkpoint(checkpoint)
    results = []

    dropped = choose(
        layout, checkpoint.fingerprint, {}, {}, {"layer": kept_layers(model.layers, DROPPED)}
    )
    _, kept = bytes_read_and_kept(checkpoint, layout, dropped)
    hold_bytes(checkpoint.files, kept, reference)
    say(f"{size}: dropping layers {DROPPED}, {kept / 1e9:.2f} GB kept")
    timing = compare(work, source, reference, ["--drop-layers", DROPPED], repeats)
    results += rows(
        f"{size}, 4 of {model.layers} layers dropped", timing, "kept bytes", 1.2, model is LARGE
    )
    if mergekit is not None:
        say(f"{size}: mergekit")
        results += with_mergekit(work, source, mergekit, model, timing, repeats, size)
    shutil.rmtree(reference)

    cut = cut_all_axes(checkpoint, layout, model.cut, seed=0)
    cut_file = work / "cut.json"
    cut.save(cut_file)
    read, kept = bytes_read_and_kept(checkpoint, layout, cut)
    hold_bytes(checkpoint.files, read, reference)
    say(f"{size}: all axes, {read / 1e9:.2f} GB read, {kept / 1e9:.2f} GB kept")
    timing = compare(work, source, reference, ["--cut", cut_file], repeats)
    results += rows(f"{size}, all axes cut", timing, "rows read", 2, model is LARGE)
    shutil.rmtree(reference)
    shutil.rmtree(source)
    return results


def kept_layers(layers: int, dropped: str) -> NDArray[np.int64]:
    first, last = map(int, dropped.split("-"))
    return np.setdiff1d(np.arange(layers, dtype=np.int64), np.arange(first, last + 1))


def rows(what: str, timing: Timing, copied: str, carve_goal: float, large: bool) -> list[Result]:
    """The results of one cut.

    The whole command has a goal only on the large model. On a small one it mostly imports
    libraries.
    """
    peer = f"cp of the {copied}"
    whole_goal = Goal("ratio", "<=", 2) if large else None
    return [
        Result(
            f"{what}: carving", timing.carve, "s", peer, timing.cp,
            Goal("ratio", "<=", carve_goal),
        ),
        Result(
            f"{what}: carving, synced", timing.synced, "s", "without sync", timing.carve
        ),
        Result(
            f"{what}: whole command", timing.whole, "s", peer, timing.cp, whole_goal
        ),
        Result(
            f"{what}: peak memory", timing.peak / 1e6, "MB", goal=Goal("value", "<=", 150)
        ),
        Result(f"{what}: peak memory of the check", timing.check_peak / 1e6, "MB"),
    ]  # fmt: skip


def install_mergekit(directory: Path) -> Path:
    """Install mergekit in a virtual environment; return the path of its command."""
    say("mergekit: installing")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip: list[str | Path] = [directory / "bin/pip", "install", "-q", "mergekit"]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    return directory / "bin/mergekit-yaml"


def with_mergekit(
    work: Path, source: Path, command: Path, model: Model, ours: Timing, repeats: int, size: str
) -> list[Result]:
    """Time mergekit's passthrough merge of the same layers, for reference."""
    first, last = map(int, DROPPED.split("-"))
    ranges = [[0, first], [last + 1, model.layers]]
    slices = [{"sources": [{"model": str(source), "layer_range": r}]} for r in ranges]
    recipe, log, out = work / "mergekit.yaml", work / "mergekit.log", work / "out"
    recipe.write_text(
        json.dumps({"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"})
    )
    run: list[str | Path] = [command, recipe, out, "--no-copy-tokenizer"]
    seconds, peaks = [], []
    for _ in range(repeats):
        warm(source)
        began = time.perf_counter()
        with log.open("w") as messages:
            process = subprocess.Popen(run, stdout=messages, stderr=messages)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds.append(time.perf_counter() - began)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"mergekit failed:\n{log.read_text()[-2000:]}")
        peaks.append(usage.ru_maxrss * 1024)
        shutil.rmtree(out)
        say(f"  mergekit {seconds[-1]:.2f} s, {peaks[-1] / 1e6:,.0f} MB")
    what = f"{size}, 4 of {model.layers} layers dropped"
    return [
        Result(
            f"{what}: whole command", ours.whole, "s", "mergekit", statistics.median(seconds)
        ),
        Result(f"{what}: peak memory", ours.peak / 1e6, "MB", "mergekit", max(peaks) / 1e6),
    ]  # fmt: skip


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--work", type=Path, required=True, help="a directory on the disk that is measured"
    )
    arguments.add_argument(
        "--mergekit", action="store_true", help="install mergekit there and measure it too"
    )
    options: argparse.Namespace = arguments.parse_args()
    models = [SMALL] if options.quick else [SMALL, LARGE]
    repeats = 3 if options.quick else 5
    options.work.mkdir(parents=True, exist_ok=True)
    needed = 2 * max(model.nbytes for model in models) + SHARD_BYTES + SPARE_BYTES
    needed += 8 * 10**9 if options.mergekit else 0
    free = shutil.disk_usage(options.work).free
    if free < needed:
        raise SystemExit(
            f"{options.work}: {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} are free"
        )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit("stopped")

    signal.signal(signal.SIGTERM, stop)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="surgery-", dir=options.work) as name:
        work = Path(name).resolve()
        mergekit = install_mergekit(work / "mergekit") if options.mergekit else None
        for model in models:
            results += measure(model, work, repeats, mergekit)
    show(results + growth(results), as_json=options.json)


def growth(results: Sequence[Result]) -> list[Result]:
    """Peaks of memory on the large model, compared with those on the small one."""
    peaks = [r for r in results if r.name.endswith(": peak memory") and r.goal]
    small, large = peaks[:2], peaks[2:]
    if not large:
        return []
    goal = Goal("ratio", "<=", 1.25)
    return [
        Result(b.name, b.value, "MB", a.name.partition(",")[0], a.value, goal)
        for a, b in zip(small, large, strict=True)
    ]


if __name__ == "__main__":
    main()
