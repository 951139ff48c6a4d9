"""Write the model and the texts that mini-openba.yaml reads, from your own files.

    python recipes/prepare_mini_openba.py --model DIR --text DIR [--heldout-ids FILE]

`--model`: an OpenBA directory. `--text`: a directory with .jsonl or .jsonl.gz files of documents in
English and Chinese. Duplicate documents are used once. One document in forty is held out, by its
hash. If the model was trained on some of the documents, `--heldout-ids` names the held-out ones
instead: a file of uint16 token ids, with eos after each document. Only the beginning of a long
held-out document is used. A document counts as Chinese if at least a tenth of its characters are
Chinese.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regrow.checkpoint.companions import companion_files, write_files
from regrow.checkpoint.reader import open_checkpoint
from regrow.corpus.packing import tokenise
from regrow.corpus.text import read_documents
from regrow.models.loading import load_tokenizer

HERE = Path(__file__).parent / "mini-openba"
HELD_OUT_EVERY = 40
MEASURED_CHARACTERS = 4_000
"""Of a held-out document, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--heldout-ids", type=Path)
    options = parser.parse_args()
    texts = list(dict.fromkeys(documents(options.text)))
    if not texts:
        sys.exit(f"{options.text}: no .jsonl or .jsonl.gz file with a document")
    HERE.mkdir(exist_ok=True)
    copy_model(options.model)
    heldout = (
        [is_heldout(text) for text in texts]
        if options.heldout_ids is None
        else are_listed(texts, options.heldout_ids)
    )
    write("train.jsonl", [t for t, out in zip(texts, heldout, strict=True) if not out])
    for language, chinese in (("en", False), ("zh", True)):
        chosen = [
            text[:MEASURED_CHARACTERS]
            for text, out in zip(texts, heldout, strict=True)
            if out and is_chinese(text) is chinese
        ]
        write(f"heldout-{language}.jsonl", chosen)
    print(f"{len(texts):,} documents, {sum(heldout):,} of them held out, in {HERE}")


def copy_model(source: Path) -> None:
    """Copy config, weights and tokenizer files to `HERE`."""
    target = HERE / "model"
    if target.exists() and source.resolve() == target.resolve():
        return
    checkpoint = open_checkpoint(source)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    index = source.glob("model.safetensors.index.json")
    for path in (*checkpoint.files, *index, source / "config.json"):
        shutil.copyfile(path, target / path.name)
    write_files(target, {n: p.read_bytes() for n, p in companion_files(source).items()})


def documents(directory: Path) -> Iterator[str]:
    for path in sorted(directory.glob("*.jsonl*")):
        yield from read_documents(path)


def is_heldout(text: str) -> bool:
    """Whether the hash of a document is among the one in `HELD_OUT_EVERY` that are held out."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % HELD_OUT_EVERY == 0


def are_listed(texts: list[str], ids: Path) -> list[bool]:
    """For each document, whether its token ids are in the file `ids`."""
    tokenizer = load_tokenizer(HERE / "model")
    stream = np.fromfile(ids, dtype=np.uint16)
    ends = np.flatnonzero(stream == tokenizer.eos_token_id)
    listed = {part.tobytes() for part in np.split(stream, ends + 1)}
    end = np.uint16(tokenizer.eos_token_id)
    return [
        np.append(document_ids.astype(np.uint16), end).tobytes() in listed
        for document_ids in tokenise(texts, tokenizer)
    ]


def is_chinese(text: str) -> bool:
    return sum("\u4e00" <= character <= "\u9fff" for character in text) * 10 >= len(text)


def write(name: str, texts: list[str]) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    (HERE / name).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
