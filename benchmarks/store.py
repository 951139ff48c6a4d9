"""Token stores: the time of sampling compared with a training step, memory, and tokenising.

`MODEL` is a directory whose tokenizer tokenises `--text`. The network that is trained has the sizes
of SmolLM2-135M and random weights.

Sampling reads batches of 8 rows of 512 tokens, at random places of a store. The store holds only
zeros, so that the file is sparse on disk. A training step on one batch (AdamW, bf16 autocast where
the processor supports it) is measured for comparison. Both are CPU times. The step's is divided by
the number of cores, as if it ran on all cores without overhead, so the ratio is an upper bound.
Memory is the anonymous memory of the process (RssAnon). It leaves out pages of mapped files, which
the system can take back. The peer for memory and opening is a store of a tenth of the size.

Tokenising is measured in MB of text per second, of wall time and of CPU time. The peer is the
tokenizers library on the same documents, in one thread, without reading or writing files.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Goal, Result, parser, say, show

ROW_LENGTH, ROWS = 512, 8
DOCUMENT = 500
"""Tokens in a document of the sparse store."""
SMOLLM2 = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


def write_sparse(stem: Path, tokens: int) -> None:
    """Write a store of `tokens` zeros. The tokens take no space on disk; the index does."""
    from regrow.corpus.megatron_format import write_index

    documents = tokens // DOCUMENT
    with Path(f"{stem}.bin").open("wb") as file:
        file.truncate(2 * documents * DOCUMENT)
    lengths = stem.with_suffix(".lengths")
    with lengths.open("wb") as file:
        for first in range(0, documents, 1 << 20):
            count = min(1 << 20, documents - first)
            file.write(np.full(count, DOCUMENT, dtype="<i4").data)
    with Path(f"{stem}.idx").open("wb") as file:
        write_index(file, lengths, "uint16")
    lengths.unlink()


def read_store(stem: str, batches: int) -> dict[str, float]:
    """Open a store and sample from it: seconds, and bytes of memory. Runs in its own process."""
    from regrow.corpus.samples import DataOrder
    from regrow.corpus.token_store import open_store
    from regrow.corpus.token_store_rows import StoreRows
    from regrow.corpus.token_store_windows import cut_store

    tiny = Path(f"{stem}.tiny")
    write_sparse(tiny, 100 * DOCUMENT)
    sample(StoreRows(open_store(tiny), ROW_LENGTH, 0, 0), 1)  # loads all code first
    before = allocated()
    began = time.perf_counter()
    store = open_store(Path(stem), end=0)
    opened = time.perf_counter() - began
    rows = StoreRows(store, ROW_LENGTH, 0, 0)
    DataOrder(0, len(rows)).rows(0, ROWS)
    first = time.perf_counter() - began
    seconds = sample(rows, batches)
    memory = allocated() - before
    began = time.perf_counter()
    windows = cut_store(store, ROW_LENGTH)
    cut = time.perf_counter() - began
    order = DataOrder(0, len(windows))
    began_cpu = time.process_time()
    for number in range(batches):
        windows.pieces(order.rows(number * ROWS, (number + 1) * ROWS))
    return {
        "opened": opened, "first": first, "sample": seconds, "memory": memory, "cut": cut,
        "windows": (time.process_time() - began_cpu) / batches,
        "window memory": allocated() - before,
    }  # fmt: skip


def sample(rows: Any, batches: int) -> float:
    """Mean CPU seconds to read a batch of random rows."""
    from regrow.corpus.samples import DataOrder

    order = DataOrder(0, len(rows))
    began = time.process_time()
    for number in range(batches):
        numbers = order.rows(number * ROWS, (number + 1) * ROWS)
        rows.batch(numbers, numbers)
    return (time.process_time() - began) / batches


def allocated() -> int:
    """Bytes of anonymous memory of this process (RssAnon)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status: no RssAnon")


def step_seconds(steps: int) -> float:
    """Seconds of a training step on all cores: CPU time of one thread, divided by their number."""
    import torch
    import transformers

    from regrow.common.precision import autocast
    from regrow.objectives.losses.causal import Causal

    torch.set_num_threads(1)  # waiting threads would use CPU time
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SMOLLM2))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters())
    objective = Causal()
    ids = torch.randint(0, 49_152, (ROWS, ROW_LENGTH))
    positions = torch.arange(ROW_LENGTH).expand(ROWS, -1)
    batch = {"input_ids": ids, "labels": ids, "position_ids": positions}
    spent = []
    for _ in range(1 + steps):
        began = time.process_time()
        with autocast("auto", torch.device("cpu")):
            loss, each = objective(model, batch)
        (loss / len(each)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        spent.append(time.process_time() - began)
        say(f"a step: {spent[-1]:.1f} s of processor time")
    return min(spent[1:]) / (os.cpu_count() or 1)


def tokenise_seconds(model: Path, out: Path, text: Path, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds of all processes, including their start."""
    from regrow.corpus.tokenisation import tokenise_files

    def spent() -> float:
        used = [resource.getrusage(w) for w in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    began, before = time.perf_counter(), spent()
    tokenise_files(model, out, [text], workers=workers)
    return time.perf_counter() - began, spent() - before


def library_seconds(model: Path, text: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the tokenizers library alone, in one thread."""
    from regrow.corpus.text import read_documents
    from regrow.models.loading import load_tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer, documents = load_tokenizer(model), list(read_documents(text))
    began, began_cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(documents), 256):
        tokenizer.backend_tokenizer.encode_batch(
            documents[first : first + 256], add_special_tokens=False
        )
    return time.perf_counter() - began, time.process_time() - began_cpu


def in_process(stem: Path, batches: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--read", str(stem), str(batches)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_store(work: Path, tokens: int, steps: int) -> list[Result]:
    found = {}
    for name, size in (("peer", tokens // 10), ("whole", tokens)):
        say(f"a sparse store of {2 * size / 1e9:g} GB")
        write_sparse(work / name, size)
        found[name] = in_process(work / name, 1_000)
    whole, peer = found["whole"], found["peer"]
    large, tenth = f"{2 * tokens / 1e9:g} GB", f"{2 * tokens / 1e10:g} GB"

    def of(name: str, key: str, unit: str, scale: float, goal: Goal | None = None) -> Result:
        return Result(f"{large}: {name}", whole[key] * scale, unit, tenth, peer[key] * scale, goal)

    results = [
        of("open", "opened", "ms", 1e3, Goal("value", "<=", 1_000)),
        of("open, and the first batch's rows", "first", "ms", 1e3, Goal("value", "<=", 1_000)),
        of("memory, rows of 512", "memory", "MB", 1e-6, Goal("value", "<=", 16)),
        of("cut into windows", "cut", "s", 1),
        of("memory, windows too", "window memory", "MB", 1e-6),
    ]
    say("training steps")
    step = step_seconds(steps)
    bound = Goal("ratio", "<=", 0.02)
    for name, key in (("rows", "sample"), ("windows", "windows")):
        results.append(
            Result(f"{large}: sample 8 {name}", whole[key] * 1e3, "ms", "step", step * 1e3, bound)
        )
    return results


def measure_tokenising(model: Path, work: Path, text: Path, copies: int) -> list[Result]:
    from regrow.corpus.text import read_documents

    documents = list(read_documents(text))
    megabytes = sum(len(each.encode()) for each in documents) / 1e6
    files = {1: work / "once.jsonl", 1 + copies: work / "more.jsonl"}
    for count, path in files.items():
        with path.open("w", encoding="utf-8") as file:
            for _ in range(count):
                file.writelines(json.dumps({"text": each}) + "\n" for each in documents)
    say(f"{megabytes:.1f} MB of text, {copies} times more")
    library = library_seconds(model, files[1])
    results = []
    for workers in (1, 2):
        # The difference of a long and a short file leaves out the start of the processes.
        once, more = (
            tokenise_seconds(model, work / f"store{workers}-{count}", path, workers)
            for count, path in files.items()
        )
        name = f"tokenise, {workers} worker{'s' if workers > 1 else ''}"
        for what, first, last, alone in zip(
            ("wall time", "processor time"), once, more, library, strict=True
        ):
            rate = copies * megabytes / (last - first)
            results.append(
                Result(f"{name}: {what}", rate, "MB/s", "tokenizers, 1 thread", megabytes / alone)
            )
    return results


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, metavar="MODEL")
    arguments.add_argument(
        "--text", type=Path, metavar="FILE", help="text to tokenise (default: skip this part)"
    )
    arguments.add_argument(
        "--work", type=Path, metavar="DIR", help="a directory for files of 1 GB at most"
    )
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as directory:
        work = Path(directory)
        results = measure_store(work, 10**9 if given.quick else 10**10, 1 if given.quick else 3)
        if given.text is not None:
            results += measure_tokenising(given.model, work, given.text, 2 if given.quick else 12)
    show(results, as_json=given.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        print(json.dumps(read_store(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
