"""Carve: write the kept part of a checkpoint as a stream.

First, shapes, offsets, shard names and the config are computed from the headers. Then two threads,
each with a small buffer, copy the kept byte ranges in source order to a temporary directory. It is
renamed at the end. Memory does not grow with the model, unless tensors are computed from whole
matrices (surgery/rotation.py).
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

from regrow.architectures import Layout
from regrow.checkpoint.header import TensorSpec, header_bytes, os_errors
from regrow.checkpoint.reader import SINGLE_FILE, Checkpoint
from regrow.checkpoint.writer import WeightFile, partial_directory, publish, small_files
from regrow.common.disk import check_free_space
from regrow.common.errors import UserError
from regrow.cuts.cut import Cut
from regrow.cuts.kept import Shared, expert_after, kept_indices, position_after, scalings_of
from regrow.surgery.computed import Computed, stream_computed
from regrow.surgery.kept_bytes import FLOATS, Selection, stream

BUFFER_BYTES = 1 << 20  # larger buffers leave the CPU cache, and took up to twice the CPU time
_THREADS = 2


@dataclass(frozen=True)
class Output:
    """One tensor of the result, and its content: stored bytes, or computed values.

    `name`: in the file. `parameter`: in the model class. `dtype`: its safetensors name.
    """

    name: str
    parameter: str
    dtype: str
    content: Selection | Computed

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.content.shape)

    @property
    def nbytes(self) -> int:
        return self.spec.nbytes


@dataclass(frozen=True)
class Shard:
    """One file of the result: a header, then its tensors in order."""

    name: str
    outputs: tuple[Output, ...]

    @cached_property
    def header(self) -> bytes:
        """The first bytes of the file: the length of the header, then the header."""
        return header_bytes(output.spec for output in self.outputs)

    @property
    def weights(self) -> WeightFile:
        return WeightFile(self.name, tuple(output.spec for output in self.outputs))

    @property
    def nbytes(self) -> int:
        return self.offsets[-1] + self.outputs[-1].nbytes

    @property
    def offsets(self) -> list[int]:
        """Where each tensor begins in the file, in bytes."""
        sizes = (output.nbytes for output in self.outputs[:-1])
        return list(accumulate(sizes, initial=len(self.header)))


@dataclass(frozen=True)
class CarvePlan:
    """All files to write, known before any weight is read."""

    shards: tuple[Shard, ...]
    config: Mapping[str, Any]
    files: Mapping[str, bytes]
    """Small files by name; `config.json` comes last."""
    to_rotate: bool = False
    """Whether tensors along hidden are still to be rotated (surgery/rotation.py)."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        return tuple(output for shard in self.shards for output in shard.outputs)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(s.nbytes for s in self.shards) + sum(len(f) for f in self.files.values())

    @cached_property  # read at each step of the progress
    def weight_bytes(self) -> int:
        """Bytes of all tensors, without headers."""
        return sum(output.nbytes for output in self.outputs)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the result by parameter name."""
        return {output.parameter: output.content.shape for output in self.outputs}


def plan_carve(
    checkpoint: Checkpoint,
    layout: Layout,
    cut: Cut,
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
    max_shard_bytes: int,
) -> CarvePlan:
    """Plan the files that a cut makes from a checkpoint.

    `config`: of the result. `files`: further small files of the result. `max_shard_bytes`: the most
    bytes of tensors in a shard, unless one tensor alone is larger.
    """
    scalings = scalings_of(layout, cut)
    shared: Shared = {}
    outputs = []
    for name, info in checkpoint.tensors.items():
        label = layout.tensors.get(name)
        if label is None:
            continue
        position = position_after(label, layout, cut)
        expert = None if position is None else expert_after(label, position, cut)
        if position is None or expert is None:
            continue
        new_name = label.renamed(position, expert) if label.layer else layout.written_name(label)
        keep = tuple(kept_indices(d, position, layout, cut, shared) for d in label.dims.dimensions)
        selection = Selection(info, keep, scalings.get(label.parameter))
        parameter = label.parameter if label.layer is None else new_name
        outputs.append(Output(new_name, parameter, info.dtype, selection))
    shards = _shards(outputs, max_shard_bytes)
    small = small_files(config, files, [shard.weights for shard in shards])
    return CarvePlan(shards, config, small, cut.is_rotated)


def carve(
    plan: CarvePlan,
    out: Path,
    progress: Callable[[int], None] = lambda _: None,
    place: Path | None = None,
) -> None:
    """Write the plan to `out`, which must not exist, or must be an empty directory.

    If writing fails, nothing of the result is left.

    Args:
        plan: what is written.
        out: where.
        progress: called with the number of weight bytes written since the last call.
        place: the workplace of `out` (`regrow.common.publishing`), if the caller has one already.

    Raises:
        UserError: the disk is or becomes full, another process writes `out`, a weight is not
            finite, or a written file differs from the plan.
    """
    if plan.to_rotate:
        raise ValueError("the plan keeps principal directions that were not measured")
    check_free_space(out, plan.nbytes)
    try:
        with partial_directory(out, place) as partial:
            for shard in plan.shards:
                _write_shard(shard, partial / shard.name, progress)
            publish(partial, out, [shard.weights for shard in plan.shards], plan.files)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{out}: the disk is full; {plan.nbytes:,} bytes are needed") from error
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def with_corrections(
    plan: CarvePlan, layout: Layout, corrections: Mapping[str, Computed]
) -> CarvePlan:
    """The same plan with computed tensors in place of carved ones, by parameter name in the result.

    Raises ValueError if a correction is for a tensor that the cut does not write, has another
    shape, replaces a tensor that is not float, or replaces only some of several tied tensors.
    """
    written = {output.parameter: output for output in plan.outputs}
    for name, computed in corrections.items():
        if name not in written:
            raise ValueError(f"{name}: a correction of a tensor that the cut does not write")
        shape, dtype = written[name].content.shape, written[name].dtype
        if computed.shape != shape:
            raise ValueError(
                f"{name}: the correction has shape {list(computed.shape)}, the tensor {list(shape)}"
            )
        if dtype not in FLOATS:
            raise ValueError(f"{name}: a correction of a tensor of type {dtype}")
    head = layout.blueprint.head
    tied = {head.embedding, *head.aliases, *((head.weight,) if layout.tied else ())}
    tied &= written.keys()
    if tied & corrections.keys() and tied - corrections.keys():
        raise ValueError(f"{', '.join(sorted(tied))}: tied, so correct all of them or none")
    shards = [
        Shard(
            shard.name,
            tuple(
                replace(output, content=corrections.get(output.parameter, output.content))
                for output in shard.outputs
            ),
        )
        for shard in plan.shards
    ]
    return replace(plan, shards=tuple(shards))


def _shards(outputs: list[Output], max_shard_bytes: int) -> tuple[Shard, ...]:
    groups: list[list[Output]] = [[]]
    filled = 0
    for output in outputs:
        size = output.nbytes
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(output)
        filled += size
    if len(groups) == 1:
        names = [SINGLE_FILE]
    else:
        names = [
            f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)
        ]
    return tuple(Shard(name, tuple(group)) for name, group in zip(names, groups, strict=True))


def _write_shard(shard: Shard, path: Path, progress: Callable[[int], None]) -> None:
    """Write one file, with a few threads that each read, check and write one tensor after another.

    The calling thread is one of them. In this way a block stays in the cache of one core. A reading
    and a writing thread took a fifth more CPU time, and longer on a busy machine.
    """
    jobs = zip(shard.outputs, shard.offsets, strict=True)
    lock = threading.Lock()
    failures: list[BaseException] = []
    files = {o.content.info.file for o in shard.outputs if isinstance(o.content, Selection)}
    with _opened(files) as sources, path.open("wb") as out:

        def work() -> None:
            buffers = repeat(bytearray(BUFFER_BYTES))
            try:
                while True:
                    with lock:
                        output, offset = next(jobs, (None, 0))
                    if output is None:
                        return
                    for block in _blocks(output, sources, buffers):
                        if failures:
                            return
                        _write_at(out.fileno(), block, offset)
                        offset += len(block)
                        with lock:
                            progress(len(block))
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)

        _write_at(out.fileno(), memoryview(shard.header), 0)
        others = [threading.Thread(target=work, name="carve") for _ in range(_THREADS - 1)]
        for thread in others:
            thread.start()
        work()
        for thread in others:
            thread.join()
        if failures:
            raise failures[0]


def _blocks(
    output: Output, sources: Mapping[Path, int], buffers: Iterator[bytearray]
) -> Iterator[memoryview]:
    content = output.content
    if isinstance(content, Computed):
        return stream_computed(content, output.spec, buffers)
    return stream(content, sources[content.info.file], buffers)


@contextmanager
def _opened(files: set[Path]) -> Iterator[dict[Path, int]]:
    """Context manager: open descriptors to read from, by file."""
    descriptors: dict[Path, int] = {}
    try:
        for file in files:
            with os_errors(file):
                descriptors[file] = os.open(file, os.O_RDONLY)
        yield descriptors
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _write_at(descriptor: int, block: memoryview, offset: int) -> None:
    while block:
        count = os.pwrite(descriptor, block, offset)
        block, offset = block[count:], offset + count
