"""The stages of a recipe in order: score, cut, carve, measure, recover, measure.

Every step is recorded in the ledger when its output stands, so a run that was killed anywhere goes
on where it stood. The only module that knows all the others.
"""

import datetime
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow import environment
from regrow.checkpoint.carve import check_free_space
from regrow.checkpoint.reader import open_checkpoint
from regrow.checkpoint.source import resolve_model
from regrow.corpus.text import documents_sha256, read_documents
from regrow.cuts.cut import Cut
from regrow.errors import UserError
from regrow.ledger import Entry, Ledger, Step, differences, step_after
from regrow.progress import Clock, Piece
from regrow.pruning import bind_checkpoint, prune_checkpoint
from regrow.recipe import Recipe, Stage
from regrow.training.settings import RecoverySettings

if TYPE_CHECKING:
    from regrow.evaluation.heldout import HeldoutLoss

STAGES = "stages"
_SPEED_PROMPT = "Write a short story about a river."
_SPEED_TOKENS = 32
_MEASURE_ROW = 512

Say = Callable[[str], None]


@dataclass(frozen=True)
class Update:
    """What a run is doing, for whoever watches."""

    stage: str
    doing: str
    share: float
    """Part of the whole run that is behind, from 0 to 1."""
    seconds_left: float
    loss: float | None = None
    tokens_per_second: float | None = None


Watch = Callable[[Update], None]


@dataclass(frozen=True)
class Result:
    """Where a run left its result."""

    directory: Path
    model: Path
    report: Path


def run(
    recipe: Recipe,
    out: Path,
    *,
    recipe_text: str = "",
    control: bool = False,
    redo: bool = False,
    say: Say = lambda _: None,
    watch: Watch = lambda _: None,
) -> Result:
    """Run all stages of a recipe in the directory `out`, from where an earlier run stood.

    `control`: train the original on the same tokens too, for an honest comparison. `redo`: where
    the recipe changed, do again what that invalidates; without it a change is an error.
    Raises UserError before any work at whatever cannot be.
    """
    import torch

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    with Ledger(out) as ledger:
        work = _Run(recipe, out, ledger, recipe_text, control, say, watch)
        work.check(redo)
        work.all_steps()
        return work.finish()


class _Run:
    """One run: what every step needs to know."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        ledger: Ledger,
        recipe_text: str,
        control: bool,
        say: Say,
        watch: Watch,
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.ledger = ledger
        self.recipe_text = recipe_text
        self.control = control
        self.say = say
        self.watch = watch
        for name, path in (("data.train", p) for p in recipe.data.train_paths):
            _readable(name, path)
        for name, path in recipe.data.heldout.items():
            _readable(f"data.heldout.{name}", path)
        self.original = resolve_model(recipe.model, out / "original", say)
        self.source = open_checkpoint(self.original)
        self.layout = bind_checkpoint(self.source)
        if self.layout.blueprint.is_encoder_decoder:
            raise UserError(
                f"model: {self.layout.blueprint.model_type} can be cut (regrow prune) but not yet "
                "trained, so no recipe can be run with it"
            )
        self.text_hashes = {
            "train": documents_sha256(self.train_documents()),
            **{
                f"heldout.{name}": documents_sha256(read_documents(path))
                for name, path in recipe.data.heldout.items()
            },
        }
        self.steps = self._plan()
        self.clock = Clock(self._pieces())
        self._stage_now = ""
        self._doing = ""

    def train_documents(self) -> Iterator[str]:
        for path in self.recipe.data.train_paths:
            yield from read_documents(path)

    # Planning

    def _plan(self) -> dict[str, Step]:
        """All steps with what goes into them."""
        recipe = self.recipe
        heldout = {k: v for k, v in self.text_hashes.items() if k.startswith("heldout.")}
        measured = {"heldout": heldout}
        first = step_after(None, "original", {"model": self.source.fingerprint})
        steps = [
            first,
            step_after(
                first, "original/measure",
                {**measured, "prompts": recipe.prompts, "answer_tokens": recipe.answer_tokens},
            ),
        ]  # fmt: skip
        last = first
        for stage in recipe.stages:
            carve = step_after(
                last, f"{stage.name}/carve",
                {"cut": stage.cut.model_dump(mode="json", exclude={"cut"}),
                 "cut_file": Cut.load(stage.cut.cut).to_json() if stage.cut.cut else None,
                 "text": self.text_hashes["train"], "seed": recipe.seed},
            )  # fmt: skip
            steps += [carve, step_after(carve, f"{stage.name}/measure-cut", measured)]
            last = carve
            if stage.recover is not None:
                recover = step_after(
                    carve, f"{stage.name}/recover",
                    {"recover": _what_decides(stage.recover),
                     "text": self.text_hashes["train"], "seed": recipe.seed},
                )  # fmt: skip
                steps += [recover, step_after(recover, f"{stage.name}/measure", measured)]
                last = recover
        steps.append(
            step_after(
                last, "result/samples",
                {"prompts": recipe.prompts, "answer_tokens": recipe.answer_tokens},
            )
        )  # fmt: skip
        if self.control and (settings := self._control_settings()) is not None:
            control = step_after(
                first, "control/recover",
                {"recover": _what_decides(settings), "text": self.text_hashes["train"],
                 "seed": recipe.seed},
            )  # fmt: skip
            steps += [control, step_after(control, "control/measure", measured)]
        return {step.name: step for step in steps}

    def _control_settings(self) -> RecoverySettings | None:
        """The settings of the last recovery, with the tokens of all."""
        settings = [stage.recover for stage in self.recipe.stages if stage.recover is not None]
        if not settings:
            return None
        tokens = sum(each.tokens for each in settings)
        return settings[-1].model_copy(update={"tokens": tokens})

    def _sizes(self) -> dict[str, int]:
        """Parameters after each stage by its name; sizes that cannot be are found here."""
        from regrow.cuts.request import requested

        expected = {"original": self.layout.parameters()}
        sizes: dict[str, int] = {}
        layout = self.layout
        for stage in self.recipe.stages:
            if stage.cut.cut is not None:
                sizes |= Cut.load(stage.cut.cut).sizes
            else:
                try:
                    wanted, given = requested(layout, stage.cut.chosen)
                except UserError as error:
                    raise UserError(f"stages: {stage.name}: {error}") from None
                sizes |= wanted | {name: len(keep) for name, keep in given.items()}
            layout = layout.resized(sizes)
            expected[stage.name] = layout.parameters()
        return expected

    def _pieces(self) -> list[Piece]:
        """Work of all steps, in operations, bytes or seconds."""
        parameters = self._sizes()
        bytes_each = {name: 4.0 * count for name, count in parameters.items()}
        texts = sum(path.stat().st_size for path in self.recipe.data.heldout.values()) / 4
        pieces = []
        for name in self.steps:
            stage, _, what = name.partition("/")
            count = parameters.get(stage, parameters["original"])
            if what in ("measure", "measure-cut"):
                pieces.append(Piece(name, "forward", 2 * count * texts))
            elif what == "carve":
                pieces.append(Piece(name, "write", bytes_each[stage] * 4))
            elif what == "recover":
                settings = (
                    self._control_settings()
                    if stage == "control"
                    else next(s.recover for s in self.recipe.stages if s.name == stage)
                )
                assert settings is not None
                pieces.append(Piece(name, "train", 6 * count * settings.tokens))
        answers = len(self.recipe.prompts) * self.recipe.answer_tokens / 20
        pieces += [
            Piece("original/speak", "fixed", answers), Piece("result/samples", "fixed", answers),
        ]  # fmt: skip
        return pieces

    # Checks before any work

    def check(self, redo: bool) -> None:
        """Raise UserError where the run cannot be done, or an earlier one was another."""
        for name, text in self.recipe.data.heldout.items():
            if not any(document.strip() for document in read_documents(text)):
                raise UserError(f"data.heldout.{name}: {text}: no text")
        self._check_changes(redo)
        largest = self.layout.parameters()
        # Weights, gradients of none, two moments, all float32, twice while one is replaced.
        training = largest * 4 * 3 * 2 if any(s.recover for s in self.recipe.stages) else 0
        check_free_space(self.out / "run", training + largest * 4)

    def _check_changes(self, redo: bool) -> None:
        stale = []
        reasons = []
        for name, entry in self.ledger.entries.items():
            step = self.steps.get(name)
            if step is None:
                if name.startswith("control/"):
                    continue
                stale.append(name)
                reasons.append(f"{name.partition('/')[0]} is no longer there")
            elif step.key != entry.key:
                stale.append(name)
                reasons += differences(entry.inputs, step.inputs, name.partition("/")[0])
        if not stale:
            return
        stages = list(dict.fromkeys(name.partition("/")[0] for name in stale))
        if not redo:
            raise UserError(
                f"{self.out}: the recipe changed ({'; '.join(dict.fromkeys(reasons)) or 'order'}); "
                f"this invalidates {', '.join(stages)}; add --redo to do them again, or choose "
                "another --out"
            )
        self.say(f"doing again, since the recipe changed: {', '.join(stages)}")
        for name in stale:
            stage, _, what = name.partition("/")
            if what in ("carve", "recover"):
                for part in self._parts(stage, what):
                    shutil.rmtree(self.out / STAGES / stage / part, ignore_errors=True)
        self.ledger.forget(stale)

    @staticmethod
    def _parts(stage: str, what: str) -> tuple[str, ...]:
        return ("carved", "training", "model") if what == "carve" else ("training", "model")

    # The steps

    def all_steps(self) -> None:
        self._record_original()
        last = self.original
        self._measure("original/measure", self.original, speak=True)
        for stage in self.recipe.stages:
            last = self._stage(stage, last)
        self._samples(last)
        if self.control and "control/recover" in self.steps:
            self._control()

    def _record_original(self) -> None:
        step = self.steps["original"]
        if self.ledger.done(step) is None:
            outputs = {
                **self._facts(self.original),
                "texts": self._text_facts(),
                "recipe": self.recipe_text,
            }
            self._record(step, outputs, time.time(), 0.0)

    def _text_facts(self) -> list[dict[str, Any]]:
        tokenizer = _tokenizer(self.original)
        texts = [("train", "train", list(self.train_documents()))]
        texts += [
            (name, "heldout", list(read_documents(path)))
            for name, path in self.recipe.data.heldout.items()
        ]
        return [
            {
                "name": name, "role": role, "documents": len(documents),
                "tokens": sum(len(ids) for ids in tokenizer(documents)["input_ids"]),
                "sha256": documents_sha256(documents),
            }
            for name, role, documents in texts
        ]  # fmt: skip

    def _stage(self, stage: Stage, source: Path) -> Path:
        """Cut and recover; the directory of the stage's model."""
        directory = self.out / STAGES / stage.name
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        carved, model = directory / "carved", directory / "model"
        recover = self.steps.get(f"{stage.name}/recover")
        if recover is not None and self.ledger.done(recover) is not None:
            self._check_output(recover, model)
            for what in ("carve", "measure-cut", "recover"):
                self.clock.finish(f"{stage.name}/{what}")
            shutil.rmtree(carved, ignore_errors=True)
            shutil.rmtree(directory / "training", ignore_errors=True)
            self._measure(f"{stage.name}/measure", model)
            return model
        self._carve(stage, source, carved)
        self._measure(f"{stage.name}/measure-cut", carved, speed=recover is None)
        if recover is None:
            return carved
        assert stage.recover is not None
        self._train(recover, stage.recover, carved, directory / "training", model)
        shutil.rmtree(directory / "training", ignore_errors=True)
        shutil.rmtree(carved, ignore_errors=True)
        self._measure(f"{stage.name}/measure", model)
        return model

    def _carve(self, stage: Stage, source: Path, carved: Path) -> None:
        step = self.steps[f"{stage.name}/carve"]
        if self.ledger.done(step) is not None:
            self._check_output(step, carved)
            self.clock.finish(step.name)
            return
        shutil.rmtree(carved, ignore_errors=True)
        began = time.time()
        self._tell(stage.name, "scoring and cutting")
        result = prune_checkpoint(
            source, carved, stage.cut, documents=self.train_documents, seed=self.recipe.seed,
            notify=lambda text: self._tell(stage.name, text),
        )  # fmt: skip
        outputs = {
            **self._facts(carved),
            "words": result.cut.words(),
            "cut": result.cut.to_json(),
            "notes": list(result.notes),
            "seconds": {"carve": result.seconds, "score": time.time() - began - result.seconds},
        }
        self._record(step, outputs, began, time.time() - began)
        self.say(f"{stage.name}: {result.cut.words()}, {result.parameters:,} parameters")

    def _measure(
        self, name: str, directory: Path, *, speed: bool = True, speak: bool = False
    ) -> None:
        """Held-out losses; generation speed and answers to the prompts where asked for."""
        step = self.steps[name]
        if self.ledger.done(step) is None:
            from regrow.evaluation.generation import generation_speed

            began = time.time()
            stage = name.partition("/")[0]
            self._tell(stage, "measuring")
            model, tokenizer = _model(directory), _tokenizer(directory)
            outputs: dict[str, Any] = {
                "heldout": {
                    text: asdict(_loss(model, tokenizer, path))
                    for text, path in self.recipe.data.heldout.items()
                }
            }
            self._spent(name, time.time() - began)
            if speed:
                outputs["tokens_per_second"] = generation_speed(
                    model, tokenizer, _SPEED_PROMPT, new_tokens=_SPEED_TOKENS, repeats=2
                )
            if speak:
                self._tell(stage, "answering the prompts")
                outputs["answers"] = self._answers(model, tokenizer)
                self.clock.finish("original/speak")
            self._record(step, outputs, began, time.time() - began)
            losses = ", ".join(
                f"{text} {loss['loss_per_token']:.3f}" for text, loss in outputs["heldout"].items()
            )
            when = "after the cut" if name.endswith("measure-cut") else "held out"
            self.say(f"{stage}: loss {when}: {losses}")
        self.clock.finish(name)
        self.clock.finish("original/speak" if speak else name)

    def _answers(self, model: Any, tokenizer: Any) -> list[str]:
        from regrow.evaluation.generation import generate

        return [
            generate(model, tokenizer, prompt, self.recipe.answer_tokens)
            for prompt in self.recipe.prompts
        ]

    def _train(
        self, step: Step, settings: RecoverySettings, source: Path, training: Path, model_out: Path
    ) -> None:
        if self.ledger.done(step) is not None:
            self._check_output(step, model_out)
            self.clock.finish(step.name)
            return
        import torch

        from regrow.checkpoint.save import save_trained
        from regrow.corpus.packing import pack
        from regrow.objectives.causal import Causal
        from regrow.training.loop import StepReport, train

        shutil.rmtree(model_out, ignore_errors=True)
        began = time.time()
        stage = step.name.partition("/")[0]
        self._tell(stage, "recovering")
        checkpoint = open_checkpoint(source)
        layout = bind_checkpoint(checkpoint)
        tokenizer = _tokenizer(source)
        samples = pack(self.train_documents(), tokenizer, settings.row_length)
        model = _model(source)
        name, path = next(iter(self.recipe.data.heldout.items()))
        flops = 6.0 * layout.parameters()
        last = time.monotonic()
        tokens = 0

        def evaluate(trained: Any) -> float:
            return _loss(trained, tokenizer, path).loss_per_token

        def on_step(report: StepReport) -> None:
            nonlocal last, tokens
            seconds, new = time.monotonic() - last, report.tokens - tokens
            resumed = tokens == 0 and report.step > 1
            self.clock.done(step.name, flops * new, None if resumed else seconds)
            last, tokens = time.monotonic(), report.tokens
            rate = None if resumed else new / seconds
            self._tell(stage, "recovering", report.loss, rate)

        with torch.enable_grad():
            result = train(
                model, samples, Causal(), settings, seed=self.recipe.seed, directory=training,
                identity=checkpoint.fingerprint, on_step=on_step,
                evaluate=evaluate if settings.evaluate_every else None,
            )  # fmt: skip
        model_out.parent.mkdir(parents=True, exist_ok=True)
        save_trained(model, checkpoint, layout, model_out)
        outputs = {
            **self._facts(model_out),
            "curve": result.curve,
            "heldout_curve": [(at, {name: loss}) for at, loss in result.heldout],
            "tokens": result.tokens,
            "predicted": result.predicted,
            "seconds": {"recover": result.seconds},
        }
        self._record(step, outputs, began, time.time() - began)
        self.clock.finish(step.name)
        rate = result.tokens / result.seconds if result.seconds else 0.0
        self.say(
            f"{stage}: {result.tokens:,} tokens in {result.seconds:.0f} s, {rate:,.0f} a second"
        )

    def _samples(self, directory: Path) -> None:
        step = self.steps["result/samples"]
        if self.ledger.done(step) is None:
            began = time.time()
            self._tell("result", "answering the prompts")
            answers = self._answers(_model(directory), _tokenizer(directory))
            self._record(
                step, {"answers": answers, "model": str(directory)}, began, time.time() - began
            )
        self.clock.finish("result/samples")

    def _control(self) -> None:
        """The original, trained on as many tokens as all stages together."""
        settings = self._control_settings()
        assert settings is not None
        directory = self.out / STAGES / "control"
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        training, model = directory / "training", directory / "model"
        self._train(self.steps["control/recover"], settings, self.original, training, model)
        shutil.rmtree(training, ignore_errors=True)
        self._measure("control/measure", model)

    def finish(self) -> Result:
        """Write the report; where everything is."""
        from regrow.report.page import write_page
        from regrow.summary import summarise

        last = self.recipe.stages[-1]
        model = self.out / STAGES / last.name / ("model" if last.recover else "carved")
        report = self.out / "report.html"
        write_page(summarise(self.out), report)
        return Result(self.out, model, report)

    # Small things

    def _facts(self, directory: Path) -> dict[str, Any]:
        from regrow.checkpoint.save import directory_bytes

        checkpoint = open_checkpoint(directory)
        layout = bind_checkpoint(checkpoint)
        return {
            "fingerprint": checkpoint.fingerprint,
            "parameters": layout.parameters(),
            "parts": layout.parameters_by_part(),
            "vocabulary": layout.sizes["vocab"],
            "bytes": directory_bytes(directory),
            "directory": str(directory),
        }

    def _check_output(self, step: Step, directory: Path) -> None:
        """What the ledger says is there must be there, unchanged."""
        entry = self.ledger.entries[step.name]
        if not directory.is_dir():
            raise UserError(
                f"{directory}: gone, though the ledger says that {step.name} is done; "
                f"restore it, or remove {self.out} and start again"
            )
        if open_checkpoint(directory).fingerprint != entry.outputs["fingerprint"]:
            raise UserError(
                f"{directory}: not as {step.name} left it; restore it, or remove {self.out} and "
                "start again"
            )

    def _record(self, step: Step, outputs: Mapping[str, Any], began: float, seconds: float) -> None:
        import torch

        threads = torch.get_num_threads()
        started = datetime.datetime.fromtimestamp(began, datetime.UTC).isoformat()
        self.ledger.record(
            Entry(
                step.name, step.key, step.inputs, outputs,
                {
                    "versions": environment.versions(),
                    "machine": environment.machine(threads),
                    "command": environment.command(),
                    "seed": self.recipe.seed,
                },
                started, seconds,
            )
        )  # fmt: skip

    def _spent(self, name: str, seconds: float) -> None:
        piece = next(p for p in self.clock.pieces if p.step == name)
        self.clock.done(name, piece.amount, seconds)

    def _tell(
        self, stage: str, doing: str, loss: float | None = None, rate: float | None = None
    ) -> None:
        self.watch(Update(stage, doing, self.clock.share, self.clock.left, loss, rate))


def _what_decides(settings: RecoverySettings) -> dict[str, Any]:
    """All that the weights and curves of a recovery depend on."""
    return settings.model_dump(mode="json", exclude={"save_every"})


def _readable(key: str, path: Path) -> None:
    try:
        next(iter(read_documents(path)))
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _loss(model: Any, tokenizer: Any, path: Path) -> "HeldoutLoss":
    from regrow.evaluation.heldout import heldout_loss

    return heldout_loss(model, tokenizer, read_documents(path), row_length=_MEASURE_ROW)


def _sweep(directory: Path) -> None:
    """Remove what a killed write left behind."""
    for path in directory.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _model(directory: Path) -> Any:
    """The model in float32, in evaluation mode."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval()


def _tokenizer(directory: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(directory)
