"""What a rotation saves: hidden cut to principal directions and to channels.

    python benchmarks/rotation.py MODEL --text FILE --heldout FILE ... --hidden N ...

Nothing is trained. The vocabulary is whole, so bits per byte (of an encoder-decoder, of
continuations) show the cut of hidden alone. A model whose head is tied to the embedding is copied
with a head of its own first, since a tied one cannot be rotated.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean

import transformers
from common import Result, parser, say, show
from safetensors.torch import load_file, save_file

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.text import read_documents
from regrow.evaluation.heldout import heldout_loss


def untied(source: Path, out: Path) -> Path:
    """The model itself, or a copy in `out` whose head is no longer tied to the embedding."""
    layout = ModelDirectory(source).layout
    if not layout.tied:
        return source
    shutil.copytree(source, out)
    assert not [*layout.folds()], "a tied network that scales by its sizes cannot be untied"
    weights = load_file(out / "model.safetensors")
    head = layout.blueprint.head
    weights[head.weight] = weights[head.embedding].clone()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return out


def bits_per_byte(directory: Path, texts: Sequence[Sequence[str]]) -> float:
    """The mean over the texts."""
    source = ModelDirectory(directory)
    model, found = source.load(), []
    for documents in texts:
        bits = heldout_loss(model, source.tokenizer, documents, precision="auto").bits_per_byte
        assert bits is not None
        found.append(bits)
    return fmean(found)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, metavar="MODEL")
    arguments.add_argument("--text", type=Path, required=True, help="to calibrate on")
    arguments.add_argument("--heldout", type=Path, nargs="+", required=True)
    arguments.add_argument("--hidden", type=int, nargs="+", required=True, help="sizes")
    arguments.add_argument("--documents", type=int, default=30, help="of each held-out text")
    arguments.add_argument("--characters", type=int, default=6_000, help="of each document")
    arguments.add_argument("--calibration-tokens", type=int, default=16_384)
    options = arguments.parse_args()
    if options.quick:
        options.documents, options.calibration_tokens = 5, 4_096
    transformers.utils.logging.disable_progress_bar()
    texts = [
        [text[: options.characters] for text in islice(read_documents(path), options.documents)]
        for path in options.heldout
    ]
    with tempfile.TemporaryDirectory(prefix="rotation-") as work:
        model = untied(options.model, Path(work) / "untied")
        results = [Result("original", bits_per_byte(model, texts), "bits/byte")]
        say(f"original: {results[0].value:.3f}")
        for size in options.hidden:
            for refit in (False, True):
                found = {}
                for rotate in (False, True):
                    began = time.process_time()
                    out = Path(work) / "cut"
                    regrow.prune(
                        model, out, hidden=size, rotate=rotate, refit=refit,
                        calibration=options.text, calibration_tokens=options.calibration_tokens,
                    )  # fmt: skip
                    seconds = time.process_time() - began
                    found[rotate] = bits_per_byte(out, texts)
                    shutil.rmtree(out)
                    say(
                        f"hidden {size}, {'rotated' if rotate else 'channels'}, "
                        f"{'refitted' if refit else 'no refit'}: {found[rotate]:.3f} "
                        f"({seconds:.0f} s of processor time)"
                    )
                name = f"hidden {size}, rotated{', refitted' if refit else ''}"
                results.append(Result(name, found[True], "bits/byte", "channels", found[False]))
    show(results, as_json=options.json)


if __name__ == "__main__":
    main()
