"""One training by itself: pre-training, recovery or fine-tuning of one model."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from regrow.checkpoint.companions import companion_files, write_files
from regrow.checkpoint.facts import files_sha256
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.resolve import resolve_model
from regrow.common import environment
from regrow.common.errors import UserError
from regrow.common.files import read_json_object, write_atomically
from regrow.common.validation_errors import dotted, first_error, said
from regrow.corpus.sources import Corpus
from regrow.corpus.text import documents_sha256, read_documents
from regrow.models.loading import load_config, load_model, load_tokenizer
from regrow.pipeline.ledger import differences
from regrow.pipeline.recipe import Data, Recipe, Stage
from regrow.pipeline.recipe_checks import check_readable
from regrow.pipeline.run_checks import check_apart
from regrow.training.mixtures import measure_references
from regrow.training.recovery import recover
from regrow.training.settings import RecoverySettings
from regrow.training.tracking import check_tools

if TYPE_CHECKING:
    from regrow.training.loop import StepReport

FILE_NAME = "training.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pace:
    """Where a training is, for whoever watches."""

    doing: str
    share: float
    """Part of the steps that are behind, from 0 to 1."""
    loss: float
    tokens_per_second: float | None
    seconds_left: float
    stage: str = "train"


Watch = Callable[[Pace], None]


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        model: A plain Hugging Face directory.
        curve: (tokens trained after the step, loss per token before its update).
        heldout: (tokens trained, held-out loss per token), the last of them at the end.
        tokens: Of text, trained on.
        seconds: Wall time, of all calls that led here.
        skipped: Steps without an update.
    """

    model: Path
    curve: list[tuple[int, float]]
    heldout: list[tuple[int, float]]
    tokens: int
    seconds: float
    skipped: int


def of_options(
    model: str,
    text: list[Path],
    heldout: Path,
    settings: Mapping[str, Any],
    seed: int = 0,
) -> Recipe:
    """A recipe that only trains. Raises UserError, with the setting, at one that cannot be."""
    try:
        recover = RecoverySettings.model_validate(settings)
    except ValidationError as error:
        at, wrong = first_error(error, settings)
        unknown = wrong["type"] == "extra_forbidden"
        raise UserError(
            f"--set {dotted(at) or 'options'}: {'unknown' if unknown else said(wrong)}"
        ) from None
    data = Data(train=list(text), heldout={"heldout": heldout})
    stage = Stage(name="train", recover=recover)
    return Recipe.model_construct(
        name="train", model=model, seed=seed, threads=None, data=data, prompts=[],
        answer_tokens=1, stages=[stage],
    )  # fmt: skip


def train_model(
    recipe: Recipe,
    out: Path,
    *,
    stage: str | None = None,
    from_scratch: bool = False,
    say: Say = lambda _: None,
    watch: Watch = lambda _: None,
) -> Trained:
    """Train the model of a recipe as one of its stages says, in the directory `out`.

    Leaves ``out/model``, the numbers of its steps (`docs/training.md`), and where the settings
    export, ``out/exports``. Safe to kill and call
    again, under torchrun too, where all processes call it alike and the first alone writes and
    says anything.

    `stage`: needed where there are several. `from_scratch`: begin with random weights, of which the
    recipe's model may then have none.

    Raises UserError where the training cannot be, or `out` holds another one.
    """
    import torch

    from regrow.training.distributed.processes import join_processes

    chosen = _stage(recipe, stage)
    assert chosen.recover is not None
    check_tools(chosen.recover.track)
    every = chosen.recover.evaluate_every or chosen.recover.tokens
    settings = chosen.recover.model_copy(update={"evaluate_every": every})
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    processes = join_processes()
    if not processes.first:
        say, watch = (lambda _: None), (lambda _: None)
    processes.in_all(lambda: check_readable(recipe.data))
    corpus = Corpus(recipe.data.sources)
    source = processes.in_first(lambda: _source(recipe, out, from_scratch, say))
    inputs = processes.in_first(lambda: _inputs(recipe, settings, source, corpus))
    before = processes.in_first(lambda: _begin(out, inputs))
    if "result" in before:
        say(f"{out}: trained already")
        processes.in_first(lambda: _remove(out / "training"))
        return _trained(out, before["result"])

    tokenizer = processes.in_all(lambda: load_tokenizer(source))
    processes.in_all(lambda: corpus.check(tokenizer))
    references = processes.in_first(lambda: _references(recipe, settings, source, before))
    before = {**before, "references": references}
    processes.in_first(lambda: _write(out, before))
    processes.in_first(lambda: _remove(out / "model"))
    name, heldout = next(iter(recipe.data.heldout.items()))
    result = recover(
        source, out / "model", settings, corpus, seed=recipe.seed, training=out / "training",
        heldout=heldout, heldout_identity=inputs["heldout"][name], texts=recipe.data.heldout,
        references=references, on_step=_Pacer(watch),
    )  # fmt: skip
    found = {
        "curve": result.curve, "heldout": result.heldout, "tokens": result.tokens,
        "seconds": result.seconds, "skipped": result.skipped, "mixtures": result.steering,
    }  # fmt: skip
    processes.in_first(lambda: _write(out, {**before, "result": found}))
    processes.in_first(lambda: _remove(out / "training"))
    return _trained(out, found)


class _Pacer:
    """Turns reports of steps into how fast they are."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._first: tuple[float, int, int] | None = None

    def __call__(self, report: "StepReport") -> None:
        now = time.monotonic()
        rate, left = None, 0.0
        if self._first is None:
            self._first = (now, report.tokens, report.step)
        else:
            seconds = now - self._first[0]
            rate = (report.tokens - self._first[1]) / seconds
            left = seconds / (report.step - self._first[2]) * (report.steps - report.step)
        doing = f"step {report.step:,} of {report.steps:,}"
        self._watch(Pace(doing, report.step / report.steps, report.loss, rate, left))


def _stage(recipe: Recipe, name: str | None) -> Stage:
    found = [stage for stage in recipe.stages if name in (None, stage.name)]
    if len(found) != 1:
        names = ", ".join(each.name for each in recipe.stages)
        raise UserError(f"--stage: {'which of them' if found else f'no {name}'}? give {names}")
    (stage,) = found
    if stage.cut is not None or stage.recover is None:
        does = "cuts" if stage.cut is not None else "trains nothing"
        raise UserError(f"stages: {stage.name}: {does}; regrow run does what this recipe says")
    if getattr(stage.recover, "distill", None) is not None:
        raise UserError(
            f"stages: {stage.name}: recover.distill: learns from the model before a cut, and here "
            "is none; leave it out"
        )
    return stage


def _source(recipe: Recipe, out: Path, from_scratch: bool, say: Say) -> Path:
    original = resolve_model(recipe.model, out / "original", say)
    check_apart(out, original)
    if not from_scratch:
        return original
    start = out / "start"
    if not (start / "config.json").exists():
        _with_random_weights(original, start, recipe.seed)
    return start


def _with_random_weights(original: Path, start: Path, seed: int) -> None:
    """A directory as `original`, with weights as its class begins with."""
    import torch
    import transformers

    from regrow.common.disk import check_free_space

    config = load_config(original)
    kind: Any = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config, dtype=torch.float32)
    partial = start.with_name(".start.partial")
    partial.mkdir(parents=True, exist_ok=True)
    check_free_space(start, 4 * model.num_parameters())
    model.save_pretrained(partial)
    companions = companion_files(original)
    write_files(partial, {name: path.read_bytes() for name, path in companions.items()})
    partial.rename(start)


def _inputs(
    recipe: Recipe, settings: RecoverySettings, source: Path, corpus: Corpus
) -> dict[str, Any]:
    """All that decides what comes out, as JSON."""
    return {
        "model": open_checkpoint(source).fingerprint,
        "files": files_sha256(source),
        "train": corpus.identity,
        "heldout": {
            name: documents_sha256(read_documents(path))
            for name, path in recipe.data.heldout.items()
        },
        "settings": {k: v for k, v in settings.decisive().items() if k != "evaluate_every"},
        "seed": recipe.seed,
    }


def _begin(out: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """What is known of the training in a directory. Raises UserError where it is another."""
    path = out / FILE_NAME
    if path.exists():
        known = read_json_object(path)
        changed = differences(known["inputs"], json.loads(json.dumps(inputs)))
        if changed:
            raise UserError(
                f"{out}: another training ({'; '.join(changed)}); choose another directory"
            )
        return known
    own = {"original", "start", ".start.partial"}
    if out.is_dir() and {each.name for each in out.iterdir()} - own:
        raise UserError(f"{out}: not empty, and no training; choose another directory")
    out.mkdir(parents=True, exist_ok=True)
    known = {"inputs": inputs, "command": environment.command(), "versions": environment.versions()}
    _write(out, known)
    return known


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _write(out: Path, known: Mapping[str, Any]) -> None:
    write_atomically(out / FILE_NAME, json.dumps(known, indent=1).encode())


def _references(
    recipe: Recipe, settings: RecoverySettings, source: Path, before: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Losses of the model before, which mixtures are to get below."""
    if "references" in before:
        found: dict[str, dict[str, float]] = before["references"]
        return found
    if not any(mixing.references is None for mixing in settings.mixtures.values()):
        return {}
    names = [each.name for each in recipe.data.sources]
    return measure_references(
        settings, load_model(source), load_tokenizer(source), recipe.data.heldout, names
    )


def _trained(out: Path, found: Mapping[str, Any]) -> Trained:
    return Trained(
        model=out / "model",
        curve=[(tokens, loss) for tokens, loss in found["curve"]],
        heldout=[(tokens, loss) for tokens, loss in found["heldout"]],
        tokens=found["tokens"],
        seconds=found["seconds"],
        skipped=found["skipped"],
    )
